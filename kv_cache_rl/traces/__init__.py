"""Real traces: readers of published formats, and windows cut from them. Standard library only."""

from kv_cache_rl.traces.azure import AzureRequest, read_azure
from kv_cache_rl.traces.bailian import BailianRequest, read_bailian
from kv_cache_rl.traces.burstgpt import BurstGPTRequest, read_burstgpt
from kv_cache_rl.traces.claude_code import Request, Session, SubAgent, read_sessions, shared_blocks
from kv_cache_rl.traces.errors import TraceError
from kv_cache_rl.traces.formats import FORMATS, detect, read, requests_of
from kv_cache_rl.traces.mooncake import MooncakeRequest, read_mooncake
from kv_cache_rl.traces.reading import Reading
from kv_cache_rl.traces.requests import Arrival, Requests
from kv_cache_rl.traces.windows import Window, WindowSession, WindowTurn, cut_windows

__all__ = [
    "FORMATS",
    "Arrival",
    "AzureRequest",
    "BailianRequest",
    "BurstGPTRequest",
    "MooncakeRequest",
    "Reading",
    "Request",
    "Requests",
    "Session",
    "SubAgent",
    "TraceError",
    "Window",
    "WindowSession",
    "WindowTurn",
    "cut_windows",
    "detect",
    "read",
    "read_azure",
    "read_bailian",
    "read_burstgpt",
    "read_mooncake",
    "read_sessions",
    "requests_of",
    "shared_blocks",
]

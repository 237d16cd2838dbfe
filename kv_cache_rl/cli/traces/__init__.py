"""``traces``: what is in a trace file, and trace files in the project's own format."""

from kv_cache_rl.cli.traces import convert, show
from kv_cache_rl.cli.tree import group

COMMANDS = {"show": show.run_show, "convert": convert.run_convert}
app = group(
    "Look into trace files of any format, and convert them. Formats: Claude Code sessions, "
    "Mooncake and its kin, Qwen-Bailian, Azure, BurstGPT, vidur, RAGPulse, TraceLab, ShareGPT, "
    "libCacheSim; docs/formats.md has their fields.",
    COMMANDS,
)

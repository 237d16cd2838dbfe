"""Heuristics of the serving world as chat models: they read the state from the text, as any model does."""

import hashlib
import time

from kv_cache_rl.adapters.dialogue import DialogueError, message_text
from kv_cache_rl.adapters.replies import Reply, offered_names
from kv_cache_rl.adapters.requests import BadRequest
from kv_cache_rl.agents.chat_text import TOOL, read_state
from kv_cache_rl.sim.serving.heuristics import HEURISTICS, choose, new_memory

MODELS = tuple(name for name, one in HEURISTICS.items() if not (one.canary or one.remembers))
"""Those that decide by what they see alone: the server keeps no episodes."""
ACT = TOOL["function"]["name"]


def make_reply(request: dict, prompt_bytes: int) -> Reply:
    """The heuristic's answer to the last state of a checked request.

    Raises BadRequest where the state or the tools cannot be read.
    """
    model, plays = request["model"], request.get("tool_choice") != "none"
    users = [one for one in request["messages"] if isinstance(one, dict) and one.get("role") == "user"]
    text = message_text(users[-1]) if users else ""
    try:
        seen, mask = read_state(text)
        names = offered_names(request.get("tools") or [], [ACT]) if plays else {}
    except (ValueError, DialogueError) as error:
        raise BadRequest(400, str(error), "messages") from error
    action = int(choose(HEURISTICS[model].which, seen, mask, new_memory(model)))
    key = hashlib.blake2b(f"{model}\0{text}".encode(errors="surrogatepass"), digest_size=16).hexdigest()
    calls = ((ACT, {"action": action}),) if plays else ()
    return Reply(key, model, int(time.time()), calls, names, prompt_bytes)

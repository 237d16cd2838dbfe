"""The log of an episode: what was called in each window, as words, and whether a value is one."""

from kv_cache_rl.core.errors import Refused

ActionLog = list[list[list[str]]]
"""Steps -> calls -> ``[verb, seq_id]``, ``["keep"]`` or ``["?", reason]``;

``[]`` is a message without tool calls.
"""


class LogError(Refused):
    """What should be played again is no action log of the episode; names the window and the remedy."""


def log_fault(log: object) -> str:
    """What keeps a value from being an action log, in words; empty where it is one."""
    if not isinstance(log, list | tuple):
        return f"it is {type(log).__name__} {str(log)[:40]!r}, not a list of windows"
    for number, window in enumerate(log, 1):
        if not isinstance(window, list | tuple):
            return f"window {number} is {type(window).__name__} {str(window)[:40]!r}, not a list of calls"
        for call in window:
            if not _is_call(call):
                found = str(call)[:60]
                return f"window {number} holds {found!r}, not a call such as ['evict', 's7'] or ['keep']"
    return ""


def _is_call(words: object) -> bool:
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        return False
    return list(words) == ["keep"] or (len(words) == 2 and words[0] != "keep")

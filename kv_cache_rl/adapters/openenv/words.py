"""Calls of the eviction world as words, ``evict s7, compress s2``: short to type, and short for a model."""

import re
from collections.abc import Sequence

from kv_cache_rl.adapters.wire import MOST_CALLS
from kv_cache_rl.sim.eviction import MAX_CALLS_PER_STEP, ActionLog, Call, parse_call
from kv_cache_rl.sim.eviction.calls import KEEP


def read_words(given: str | Sequence[str]) -> list[Call]:
    """The calls of one window, from a text with commas, semicolons or lines between them, or from a list.

    Never raises: what cannot be read is a call with an `error`. No call at all is `keep`.

    >>> [call.to_log() for call in read_words("evict s7, keep")]
    [['evict', 's7'], ['keep']]
    """
    pieces = re.split(r"[,;\n]", given) if isinstance(given, str) else given
    words = [piece.split(None, 1) for piece in pieces if piece.strip()]
    left = len(words) - MAX_CALLS_PER_STEP if len(words) > MOST_CALLS else 0
    calls = [
        parse_call(verb, {"seq_id": rest[0].strip() if rest else ""})
        for verb, *rest in words[: len(words) - left]
    ]
    if left:
        calls.append(Call("?", error=f"{left} more calls were not read; a window takes {MAX_CALLS_PER_STEP}"))
    return calls or [KEEP]


def in_words(calls: Sequence[Call]) -> str:
    """Calls as `read_words` takes them; `keep` for none.

    >>> in_words([Call("evict", "s7"), Call("compress", "s2")])
    'evict s7, compress s2'
    """
    return ", ".join(f"{call.verb} {call.seq_id}".strip() for call in calls) or KEEP.verb


def log_in_words(log: ActionLog) -> list[str]:
    """A whole action log, a text for each window."""
    return [in_words([Call.from_log(words) for words in window]) for window in log]

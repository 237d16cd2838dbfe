"""How long a model call waits for its server.

busy      429, 503, 529: the server asks to come back; waited for within the patience
broken    5xx, a lost connection, a timeout, a reply that is none: tried again a few times
overflow  the dialogue no longer fits the model's context: not tried again
garbled   the server could not read what its own model wrote: tried again, then a reply without calls
single calls  the model's template takes one call a turn: not tried again as it is
final     anything else (a wrong key, name or address; an account that is spent or too small): said at once
"""

import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
LEAST_PAUSE_S = 0.1
"""A server that asks for less, or for a time that is over, gets the pauses of one that asks for nothing:
it would be asked again and again without end.
"""
FEW_RETRIES = 3
"""Repetitions while the server has answered nothing yet, and of garbled replies."""
RESETS = ("retry-after-ms", "retry-after")


@dataclass(frozen=True, slots=True)
class Patience:
    """Limits of one model call."""

    max_retries: int = 6
    """Repetitions after a broken call."""
    seconds: float = 300.0
    """Waiting in all, for a busy server or between repetitions."""
    timeout: float = 600.0
    """Seconds that one try may take."""


class GivenUp(Exception):
    """A call is not worth another try; the text says why where the failure itself does not."""


def asked_to_wait(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """The seconds that a Retry-After header names, as a number or as a date; None where it says nothing that
    can be waited for.
    """
    for name in RESETS:
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / (1000 if name.endswith("ms") else 1)
            if math.isfinite(seconds):
                return max(0.0, seconds)
        except ValueError:
            try:
                moment = parsedate_to_datetime(value).timestamp()
            except (TypeError, ValueError, OverflowError):
                continue
            return max(0.0, moment - (time.time() if now is None else now))
    return None


def growing(tries: int) -> float:
    """The pause after so many tries without a word from the server: doubled each time, with jitter."""
    return min(FIRST_PAUSE_S * 2**tries, LONGEST_PAUSE_S) * (0.75 + 0.25 * random.random())


def next_pause(
    kind: str, asked: float | None, tries: int, waited: float, limits: Patience, proven: bool
) -> float:
    """The seconds to wait before the next try.

    Args:
        kind: what the refusal means, as the head of this module names it.
        asked: seconds that the server asks to wait.
        tries: how many failed.
        waited: seconds so far.
        proven: whether the server has answered anything yet.

    Raises:
        GivenUp: it is not worth waiting.
    """
    if kind in ("overflow", "final", "single calls"):
        raise GivenUp("")
    most = limits.max_retries if proven and kind != "garbled" else min(limits.max_retries, FEW_RETRIES)
    if kind != "busy" and tries > most:
        raise GivenUp(f"gave up after {tries} tries" if tries > 1 else "")
    named = asked if asked is not None and asked >= LEAST_PAUSE_S else None
    pause = growing(tries - 1) if named is None else named * (1 + 0.05 * random.random())
    if waited + pause > limits.seconds:
        wants = f"the server asks to wait {named:,.0f} s more" if named else f"waited {waited:,.0f} s"
        raise GivenUp(
            f"{wants}, the patience is {limits.seconds:g} s; raise --patience or ask for less at once"
        )
    return pause

"""The error of a request that the model cannot serve, and checked numbers; importing it needs no torch."""

import operator
from collections.abc import Callable
from numbers import Real

from kv_cache_rl.core.errors import Refused


class RequestError(Refused):
    """A prompt, text or way to decode that cannot be used; the text says what to give instead."""


def whole(value: object, said: str, error: Callable[[str], Refused] = RequestError) -> int:
    """The value as an int; `said` is how the message begins.

    >>> whole(3, "3 samples")
    3

    Raises:
        Refused: an `error`, where the value is no whole number. True and 2.0 are none.
    """
    try:
        found = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        found = None
    # A tensor of one bool is an index to torch.
    if found is None or isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
        raise error(f"{said}; give a whole number")
    return found


def number(value: object, said: str, error: Callable[[str], Refused] = RequestError) -> float:
    """The value as a float; `said` is how the message begins.

    Raises:
        Refused: an `error`, where the value is no number. True is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise error(f"{said}; give a number")
    return float(value)

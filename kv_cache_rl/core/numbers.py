"""What counts as a number, and arguments that are whole ones: seeds and counts."""

import operator
import sys
from typing import TypeGuard

from kv_cache_rl.core.errors import Refused


def whole_number(
    name: str,
    value: object,
    low: int | None = None,
    high: int | None = None,
    error: type[Refused] = Refused,
) -> int:
    """The value as Python's own integer.

    A fraction would be cut off, or draw another stream, without a word.

    Args:
        name: what the number is, as the caller knows it.
        error: what is raised.

    Raises:
        Refused: it is no whole number, or below `low` or above `high`; True and False are none.

    >>> whole_number("seed", 7)
    7
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # pyrefly: ignore[bad-argument-type]
    except TypeError:
        number = None
    if number is None or (low is not None and number < low) or (high is not None and number > high):
        above = "" if low is None else f" from {low:,} on" if high is None else f" from {low:,} to {high:,}"
        raise error(f"{name} is {shown(value)}; give a whole number{above}")
    return number


def numbered(given: object) -> int:
    """The number of an action, given as a whole number of any kind: NumPy's, a tensor of one, 3.0; -1 for
    anything else.
    """
    try:
        return operator.index(given)  # pyrefly: ignore[bad-argument-type]
    except TypeError:  # no integer: perhaps a float
        import numpy as np
    try:
        value = np.asarray(given)
    except ValueError:  # rows of different lengths
        return -1
    is_whole = value.shape == () and value.dtype.kind == "f" and float(value).is_integer()
    return int(value) if is_whole else -1


def unread(error: Exception) -> str:
    """What Python says of a text that it cannot read; of a number that is too long, that it is."""
    if "set_int_max_str_digits" in str(error):
        return f"it holds a number of more than {sys.get_int_max_str_digits():,} digits"
    return str(error)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is an integer or a float; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_count(value: object) -> bool:
    """Whether it is an integer from 0 on; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def shown(value: object) -> str:
    """The value for an error, in at most 80 characters; integers that Python refuses to print, by size."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length():,} bits"
    return repr(value)[:80]

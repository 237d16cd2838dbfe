"""The base of every error that a user can solve, and the sentence about a name that does not exist."""

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path


class Refused(ValueError):
    """An input that cannot be used: the text says what happened, with the numbers, and what to do.

    Every error of the package that is not a bug is one of these, so a caller catches them with one name and
    the command line ends with exit code 2 and the text alone. States that cannot be (`LedgerError`) are
    RuntimeErrors instead.
    """


def raised(wrong: BaseException) -> str:
    """An error of foreign code in one line: its kind, its text, and where it was raised."""
    frames = traceback.extract_tb(wrong.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return " ".join(f"{type(wrong).__name__}: {wrong}{where}".split())


MOST_LISTED = 40
"""Known names that a message lists; of more it names the nearest."""


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """What is said of a name that does not exist: the nearest that does, and all of them if they are few.

    >>> unknown("policy", "lruu", ["lru", "fifo"])
    "unknown policy 'lruu'; did you mean lru? use one of lru, fifo"
    """
    names, shown = list(known), repr(name)
    near = difflib.get_close_matches(str(name)[:80], names, 5)
    said = f"unknown {kind} {shown if len(shown) <= 80 else f'{shown[:77]}...'}; "
    said += f"did you mean {near[0]}? " if near else ""
    if len(names) > MOST_LISTED:
        return f"{said}use one of the {len(names)}, such as {', '.join(near or names[:5])}"
    return f"{said}use one of {', '.join(names)}"

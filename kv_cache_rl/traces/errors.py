"""What goes wrong with a trace file, and where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kv_cache_rl.core.errors import Refused

CONVERT = "of this command, or else of kv-cache-rl traces convert"
"""Where the options that say how a trace is read are: not every way to give a trace has them."""


class TraceError(Refused):
    """A trace file that cannot be used: names the file, the line, the field, what is wrong and the remedy."""

    def __init__(self, problem: str, *, path: str, remedy: str, line: int = 0, field: str = "") -> None:
        self.path, self.line, self.field, self.problem, self.remedy = path, line, field, problem, remedy
        place = path + (f", line {line}" if line else "") + (f", field {field!r}" if field else "")
        super().__init__(f"{place}: {problem}; {remedy}")


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, so that a record read from it can name it in an error."""

    path: str
    line: int = 0  # 1 is the first; 0 means the file as a whole

    def error(self, problem: str, remedy: str, field: str = "") -> TraceError:
        """The error to raise for something found here."""
        return TraceError(problem, path=self.path, line=self.line, field=field, remedy=remedy)


def place_of(path: str | Path) -> Place:
    """The place that stands for a whole file."""
    return Place(str(path))

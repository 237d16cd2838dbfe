"""Block ids as runs of consecutive ones, which is how long prompts are held."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

Run = tuple[int, int]
"""First id, number of consecutive ids."""


class RunIds(Sequence[int]):
    """The ids that runs stand for, one after the other, none of them listed.

    >>> ids = RunIds(((7, 2), (3, 1)))
    >>> list(ids), list(ids[:2]), ids[-1]
    ([7, 8, 3], [7, 8], 3)
    """

    __slots__ = ("runs", "total")

    def __init__(self, runs: Iterable[Run]) -> None:
        self.runs = tuple(runs)
        self.total = sum(length for _, length in self.runs)
        """How many ids, which may be more than a length can be."""

    def __len__(self) -> int:
        return self.total

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(range(start, start + length) for start, length in self.runs)

    def __reversed__(self) -> Iterator[int]:
        runs = reversed(self.runs)
        return chain.from_iterable(range(start + length - 1, start - 1, -1) for start, length in runs)

    def __getitem__(self, at: Any) -> Any:
        """The id at a position, or the leading ids of a slice `[:n]`."""
        if isinstance(at, slice):
            if at.start or at.step not in (None, 1):
                raise ValueError("only leading ids are cut out")
            return RunIds(leading(self.runs, at.indices(self.total)[1]))
        position = at + self.total if at < 0 else at
        for start, length in self.runs:
            if 0 <= position < length:
                return start + position
            position -= length
        raise IndexError(at)


def runs_of(ids: Iterable[int]) -> list[Run]:
    """The ids as runs."""
    if isinstance(ids, RunIds):
        return list(ids.runs)
    runs: list[Run] = []
    for one in ids:
        if runs and sum(runs[-1]) == one:
            runs[-1] = runs[-1][0], runs[-1][1] + 1
        else:
            runs.append((one, 1))
    return runs


def leading(runs: Iterable[Run], count: int) -> list[Run]:
    """The first `count` blocks."""
    found: list[Run] = []
    for start, length in runs:
        if count <= 0:
            break
        found.append((start, min(length, count)))
        count -= length
    return found


def place_of(runs: Iterable[Run], block: int) -> int:
    """The position of a block; -1 where it is in none of the runs."""
    before = 0
    for start, length in runs:
        if start <= block < start + length:
            return before + block - start
        before += length
    return -1

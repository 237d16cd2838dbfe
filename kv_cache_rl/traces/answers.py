"""How much of each prompt a cache that keeps everything has found: what prompts began with before, and the
full blocks that decoding wrote behind them.

What decoding wrote is found by lengths, by the rule of the hierarchy lab (sim/hierarchy/traces/writes.py):
the next request of the same sequence whose path begins with all full blocks of a prompt begins with the
blocks of its answer, too, if its own prompt is at least as long as both.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Hashable, Sequence

from kv_cache_rl.traces.runs import Run, leading, place_of


class Kept:
    """The blocks of the requests so far."""

    def __init__(self, block_tokens: int) -> None:
        self._size = block_tokens
        self._seen = Intervals()
        self._ends: dict[Hashable, dict[int, int]] = defaultdict(dict)
        """Sequence → the last full block of a prompt that nothing continued → tokens with its answer."""
        self._short: dict[Hashable, int] = {}
        """Sequence → tokens of its last prompt and answer, 0 where the prompt fills a block."""

    def found(self, sequence: Hashable, runs: Sequence[Run], prompt: int, answer: int) -> int:
        """Leading tokens of a prompt that are there when it comes; then it and its answer are there, too."""
        ends, full = self._ends[sequence], prompt // self._size
        places = ((place_of(runs, block), block) for block in ends)
        at, tip = max((place for place in places if place[0] < full), default=(-1, 0))
        whole = ends.pop(tip) if at >= 0 else self._short.get(sequence, 0)
        for run in leading(runs, whole // self._size if whole <= prompt else 0):
            self._seen.add(*run)
        new = 0
        for start, length in runs:
            covered = self._seen.covered(start, length)
            new += covered
            if covered < length:
                break
        for run in runs:
            self._seen.add(*run)
        last = [start + length - 1 for start, length in leading(runs, full)]
        if last and place_of(runs, last[-1]) == full - 1:
            ends[last[-1]] = prompt + answer
        self._short[sequence] = 0 if full else prompt + answer
        return min(new * self._size, prompt)


class Intervals:
    """A set of integers, most of which follow each other."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, length: int) -> None:
        """Puts `length` integers from `start` on into the set."""
        end = start + length
        low, high = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if low < high:
            start, end = min(start, self._starts[low]), max(end, self._ends[high - 1])
        self._starts[low:high], self._ends[low:high] = [start], [end]

    def covered(self, start: int, length: int) -> int:
        """How many integers from `start` on, at most `length`, are in the set."""
        at = bisect_right(self._starts, start) - 1
        return max(0, min(self._ends[at] - start, length)) if at >= 0 else 0

"""How much of each prompt a cache that keeps everything has found: what prompts began with before, and the
full blocks that decoding wrote behind them.

What decoding wrote is found by lengths, by the rule of the hierarchy lab (sim/hierarchy/traces/writes.py):
the next request of the same sequence whose path begins with all full blocks of a prompt begins with the
blocks of its answer, too, if its own prompt is at least as long as both. They are there for every request
that comes behind the answer, of whatever sequence.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence

from kv_cache_rl.traces.runs import Run, leading, place_of


class Turns:
    """Requests in the order in which they come, with all blocks that their prompts fill or begin."""

    def __init__(self) -> None:
        self.sequences: list[Hashable] = []
        self.prompts, self.answers = array("q"), array("q")
        self._first, self._starts, self._lengths = array("q", [0]), array("q"), array("q")

    def add(self, sequence: Hashable, runs: Sequence[Run], prompt: int, answer: int) -> None:
        """The next request: `prompt` and `answer` in tokens."""
        self.sequences.append(sequence)
        self.prompts.append(prompt)
        self.answers.append(answer)
        self._starts.extend(start for start, _ in runs)
        self._lengths.extend(length for _, length in runs)
        self._first.append(len(self._starts))

    def runs(self, at: int) -> list[Run]:
        """The blocks of one."""
        cut = slice(self._first[at], self._first[at + 1])
        return list(zip(self._starts[cut], self._lengths[cut], strict=True))

    def __len__(self) -> int:
        return len(self.sequences)


class Kept:
    """The blocks of the requests so far."""

    def __init__(self, block_tokens: int) -> None:
        self._size = block_tokens
        self._seen = Intervals()

    def found(self, turns: Turns) -> Iterator[int]:
        """Leading tokens of each prompt that are there when it comes; behind it are it and its answer."""
        for at, answer in enumerate(self._written(turns)):
            new, runs = 0, turns.runs(at)
            for start, length in runs:
                covered = self._seen.covered(start, length)
                new += covered
                if covered < length:
                    break
            for run in runs:
                self._seen.add(*run)
            if answer is not None:
                continued, tokens = answer
                for run in leading(turns.runs(continued), tokens // self._size):
                    self._seen.add(*run)
            yield min(new * self._size, turns.prompts[at])

    def _written(self, turns: Turns) -> list[tuple[int, int] | None]:
        """The request whose path holds what each one wrote, and the tokens of its prompt and answer; None
        where nothing went on with it."""
        found: list[tuple[int, int] | None] = [None] * len(turns)
        ends: dict[Hashable, dict[int, int]] = defaultdict(dict)
        """Sequence → the last full block of a prompt that nothing continued → which prompt."""
        short: dict[Hashable, int | None] = {}
        """Sequence → its last prompt, None where that fills a block."""
        for at, sequence in enumerate(turns.sequences):
            runs, prompt = turns.runs(at), turns.prompts[at]
            full = prompt // self._size
            places = ((place_of(runs, block), block) for block in ends[sequence])
            deepest, tip = max((place for place in places if place[0] < full), default=(-1, 0))
            before = ends[sequence].pop(tip) if deepest >= 0 else short.get(sequence)
            if before is not None:
                whole = turns.prompts[before] + turns.answers[before]
                found[before] = (at, whole) if whole <= prompt else None
            last = [start + length - 1 for start, length in leading(runs, full)]
            if last and place_of(runs, last[-1]) == full - 1:
                ends[sequence][last[-1]] = at
            short[sequence] = None if full else at
        return found


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

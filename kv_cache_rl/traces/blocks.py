"""Block ids as traces write them: of which size their blocks are, and ids that are names.

A prompt of n tokens has ceil(n / size) ids where the last block may be partial, floor(n / size)
where only full blocks are named. The size is a property of the file: the one for which every line
agrees."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from kv_cache_rl.traces.errors import CONVERT, Place, TraceError
from kv_cache_rl.traces.fields import LARGEST, Fields, shown

LARGEST_BLOCK = 2**20
ROOT = -1
GIVEN = f"name the block size the trace was made with (--block-size {CONVERT})"


@dataclass(slots=True)
class Sizes:
    """The block sizes for which all lines so far agree, counted in either way: low ... high of
    each.
    """

    ceil: tuple[int, int] = (1, LARGEST_BLOCK)
    floor: tuple[int, int] = (1, LARGEST_BLOCK)

    def narrow(self, tokens: int, ids: int) -> None:
        """Takes in a line of so many tokens and ids."""
        if ids == 0:
            least = 1 if tokens == 0 else LARGEST_BLOCK + 1  # no size makes no block of some tokens
            self.ceil = (max(self.ceil[0], least), self.ceil[1])
            self.floor = (max(self.floor[0], tokens + 1), self.floor[1])
            return
        most = (tokens - 1) // (ids - 1) if ids > 1 else LARGEST_BLOCK
        self.ceil = (max(self.ceil[0], -(-tokens // ids)), min(self.ceil[1], most if tokens else 0))
        self.floor = (max(self.floor[0], tokens // (ids + 1) + 1), min(self.floor[1], tokens // ids))

    @property
    def left(self) -> list[tuple[tuple[int, int], bool]]:
        """The ranges of sizes that still fit, and whether only full blocks count."""
        return [(span, full) for span, full in ((self.ceil, False), (self.floor, True)) if span[0] <= span[1]]

    def choose(self, usual: int) -> Blocks | None:
        """The format's usual size if it fits, else the only one, else the only power of two.

        None where none fits, or several and no way to tell.
        """
        for (low, high), full in self.left:
            if low <= usual <= high:
                return Blocks(usual, full)
        ends = {end for span, _ in self.left for end in span}
        if len(ends) == 1:
            return Blocks(ends.pop(), self.left[0][1])
        low, high = min(ends, default=0), max(ends, default=0)
        assumed = (
            f"the only power of two from {low} to {high}, which its lines fit: --block-size says another"
        )
        powers = {  # a size for which both ways of counting agree is one size
            2**bits: Blocks(2**bits, full, f"blocks of {2**bits} tokens, {assumed}")
            for (low, high), full in reversed(self.left)
            for bits in range(21)
            if low <= 2**bits <= high
        }
        return next(iter(powers.values())) if len(powers) == 1 else None


@dataclass(frozen=True, slots=True)
class Blocks:
    """How the blocks of a file are counted."""

    size: int
    full_only: bool | None = False
    """Whether the last, partial block of a prompt is left unnamed;

    None: some lines do and some do not.
    """
    note: str = ""
    """What was assumed about the size, a sentence."""

    def check(self, fields: Fields, name: str, tokens: int, ids: int, otherwise: str = GIVEN) -> None:
        """Raises TraceError where a prompt of so many tokens cannot have so many ids; `otherwise` says what
        else than the line can be wrong.
        """
        full, begun = tokens // self.size, -(-tokens // self.size)
        if ids == (full if self.full_only else begun) or (self.full_only is None and ids == full):
            return
        expected = full if self.full_only else begun
        raise fields.error(
            name,
            f"{ids} ids for {tokens} tokens, expected {expected} blocks of {self.size}",
            f"correct the line, or {otherwise}",
        )


def blocks_of(
    place: Place, lengths: Iterable[tuple[int, int]], usual: int, given: int | None = None
) -> Blocks:
    """How the blocks are counted that (tokens, ids) pairs tell: of the given size, else of that
    which they fit; of the usual one where none fits, so that its reader can name the line.

    Raises:
        TraceError: several sizes fit.
    """
    known = given or usual
    sizes = Sizes() if given is None else Sizes((given, given), (given, given))
    try:
        for tokens, ids in lengths:
            sizes.narrow(tokens, ids)
            if [span for span, _ in sizes.left] in ([], [(known, known)]):
                break  # its reader checks the rest of the lines
    except TraceError:
        pass  # the reader meets the same line, after those before it
    found = sizes.choose(known)
    if found is None and sizes.left:
        low, high = min(span for span, _ in sizes.left)[0], max(span[1] for span, _ in sizes.left)
        raise place.error(
            f"its lines fit every block size from {low} to {high} tokens",
            f"name it with --block-size {CONVERT}",
            "hash_ids",
        )
    return found or Blocks(known)


@dataclass(slots=True)
class Kinds:
    """Whether ids are written as numbers, as texts of digits, or as both."""

    numbers: bool = False
    texts: bool = False

    def take(self, ids: Iterable[Any]) -> None:
        """Takes in some ids."""
        for one in ids:
            if isinstance(one, int):
                self.numbers = True
            elif one.isdecimal():
                self.texts = True
            if self.numbers and self.texts:
                return

    @property
    def notes(self) -> list[str]:
        """A sentence where both occur."""
        if not (self.numbers and self.texts):
            return []
        return ['some of its block ids are numbers and some are texts: 1 and "1" count as two blocks']


@dataclass(slots=True)
class Names:
    """Ids as integers: those from 0 to 2^63 - 1 stay what they are, all else is numbered from -1
    downwards.

    Equal names have equal numbers, and no two names share one.
    """

    numbers: dict[Hashable, int] = field(default_factory=dict)
    kinds: Kinds = field(default_factory=Kinds)

    def taken(self, fields: Fields, name: str) -> tuple[int, ...]:
        """The ids in a list of integers and texts. Raises TraceError for anything else."""
        values = opaque(fields, name)
        if all(isinstance(value, int) and 0 <= value <= LARGEST for value in values):
            self.kinds.numbers = self.kinds.numbers or bool(values)
            return values
        self.kinds.take(values)
        return tuple(map(self._number, values))

    def text(self, number: int) -> str:
        """The id that a number stands for, as the file has it."""
        if number >= 0:
            return str(number)
        return repr(next(name for name, one in self.numbers.items() if one == number))

    def _number(self, value: Any) -> int:
        if isinstance(value, int) and 0 <= value <= LARGEST:
            return value
        return self.numbers.setdefault(value, -1 - len(self.numbers))


def opaque(fields: Fields, name: str) -> tuple[Any, ...]:
    """The ids in a list as they stand, integers of any size and texts.

    Raises TraceError for anything else.
    """
    values = fields.items(name)
    if all(type(value) is int for value in values):
        return tuple(values)
    found = tuple(
        int(value) if isinstance(value, float) and value.is_integer() else value for value in values
    )
    for at, value in enumerate(found):
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise fields.error(
                f"{name}[{at}]", f"expected an id, got {shown(value)}", "write it as an integer or a text"
            )
    return found


def chain(content_ids: tuple[Hashable, ...], chains: dict[tuple[int, Hashable], int]) -> tuple[int, ...]:
    """Ids that name each block together with all before it; `chains` grows by the new ones."""
    chained: list[int] = []
    parent = ROOT
    for content in content_ids:
        parent = chains.setdefault((parent, content), len(chains))
        chained.append(parent)
    return tuple(chained)

"""What the number of a batch says about the stream of KV events that it came in.

next     the one that follows the last
again    one that is known: the replay overlaps with the stream
gap      a later one: those between are missing, and may be asked for
anew     an earlier number, or a known one with other content: another process counts from zero
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from hashlib import blake2b

NUMBERS = 2**64
"""Sequence numbers are eight bytes, and begin again from zero."""
REMEMBERED = 20_000
"""Batches whose content is remembered: twice as many as vLLM keeps for replay where nothing else is said."""


class Place(Enum):
    """Where a batch stands in its stream."""

    NEXT = "next"
    AGAIN = "again"
    GAP = "gap"
    ANEW = "anew"


class Order:
    """The batches so far, and what the next one's number says."""

    def __init__(self) -> None:
        self.last: int | None = None
        self._content: OrderedDict[int, bytes] = OrderedDict()

    @property
    def expected(self) -> int:
        """The number that follows the last."""
        return 0 if self.last is None else (self.last + 1) % NUMBERS

    def place(self, number: int, payload: bytes) -> Place:
        """Where a batch stands that is not yet taken."""
        if number in self._content:
            return Place.AGAIN if self.same(number, payload) else Place.ANEW
        ahead = (number - self.expected) % NUMBERS
        if ahead == 0:
            return Place.NEXT
        return Place.GAP if self.last is None or ahead < NUMBERS // 2 else Place.ANEW

    def same(self, number: int, payload: bytes) -> bool:
        """Whether a batch with this number and content was taken."""
        return self._content.get(number) == _digest(payload)

    def ahead(self, number: int) -> int:
        """How many batches lie between the last and this one."""
        return (number - self.expected) % NUMBERS

    def take(self, number: int, payload: bytes) -> None:
        """The batch is the last one now."""
        self.last = number
        self._content[number] = _digest(payload)
        if len(self._content) > REMEMBERED:
            self._content.popitem(last=False)

    def begin(self) -> None:
        """Another process counts from zero: what was known of the one before is forgotten."""
        self.last = None
        self._content.clear()


def _digest(payload: bytes) -> bytes:
    return blake2b(payload, digest_size=8).digest()

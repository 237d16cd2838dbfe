"""One engine's cache as its events tell it: what it holds, and the requests that can be told from it.

    a store        asked for the blocks ahead of it, which were found, and for its own, which were computed
    more of it     a store behind the last block of a request, in the time that decoding a block takes:
                   one block was written by decoding; several are more of its prompt, computed in pieces
    not seen       requests that found all their blocks, and the rest of a prompt or an answer that fills
                   no block

Blocks are numbered as they appear. A block whose parent was stored before the events begin stands at
the root until the parent is stored again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from kv_cache_rl.traces.blocks import ROOT
from kv_cache_rl.traces.kv_events import GPU, Batch, Cleared, Event, Name, Removed, Stored, Unknown

UNSEEN = -2
"""In place of a parent that is not known."""
USUAL_BLOCK = 16
"""Tokens in a block where no event says: vLLM's own on a GPU."""
SLOWEST_TOKENS_PER_S = 10.0
"""A request that decodes no slower stores its next block in time to be known as the same."""


@dataclass(slots=True)
class Asked:
    """A request as far as stores show it."""

    time_s: float
    rank: int
    session: str
    found: int
    """Blocks ahead of its first store."""
    computed: int
    """Blocks of its prompt that it stored."""
    prompt_end: int
    """The last block of its prompt."""
    last_s: float
    """When it last stored a block."""
    written: int = 0
    """Blocks that decoding wrote."""


@dataclass(slots=True)
class CacheSeen:
    """The cache, after the batches that `take` was given."""

    numbers: dict[tuple[int, Name], int] = field(default_factory=dict)
    """(rank, name) → number of a block."""
    parent: list[int] = field(default_factory=list)
    """Number of each block's parent, ROOT or UNSEEN."""
    held: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)
    """Blocks that left."""
    requests: list[Asked] = field(default_factory=list)
    """In order of their first store."""
    tips: dict[int, Asked] = field(default_factory=dict)
    """Last block → the request that stored it."""
    counts: Counter[str] = field(default_factory=Counter)
    """Blocks: stored, removed, again (stored after they had left), found (ahead of stores), computed (for
    prompts), written (by decoding), unseen (parents that were stored before the events begin). Others:
    cleared, joined (stores), missed and timeless (batches), restarted."""
    block_tokens: Counter[int] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    """Name of an event that is not known → how many."""
    elsewhere: Counter[str] = field(default_factory=Counter)
    """Medium, or group of layers, whose blocks are not counted here → stored and removed blocks."""
    ranks: set[int] = field(default_factory=set)
    batches: int = 0
    peak: int = 0
    """The most blocks held at one time."""
    first_s: float | None = None
    now_s: float = 0.0
    _group: int | None = None

    def take(self, batch: Batch) -> None:
        """Counts what a batch says."""
        self.batches += batch.sequence is not None or bool(batch.events)
        self.ranks.add(batch.rank)
        self.counts["missed"] += batch.missed
        self.counts["restarted"] += batch.restarted
        if batch.restarted:
            self._lose(self.held)
            self.tips.clear()
        if batch.time_s is not None or batch.events:
            self.counts["timeless"] += batch.time_s is None
            moment = self.now_s + 1.0 if batch.time_s is None else batch.time_s
            self.first_s = moment if self.first_s is None else self.first_s
            self.now_s = max(self.now_s, moment)  # a clock that is set back does not reorder a stream
        for event in batch.events:
            self._happened(event, batch.rank)
        self.peak = max(self.peak, len(self.held))

    def path(self, block: int) -> list[int]:
        """The blocks from the root to one."""
        found = []
        while block >= 0:
            found.append(block)
            block = self.parent[block]
        return found[::-1]

    @property
    def span_s(self) -> float:
        """Seconds from the first batch to the last."""
        return self.now_s - (self.first_s or 0.0) if self.batches else 0.0

    def _happened(self, event: Event, rank: int) -> None:
        if isinstance(event, Unknown):
            self.unknown[event.name] += 1
        elif isinstance(event, Cleared):
            self.counts["cleared"] += 1
            self._lose(self.held & {number for (one, _), number in self.numbers.items() if one == rank})
        elif event.medium != GPU:
            self.elsewhere[event.medium] += len(event.blocks)
        elif event.group != self._first(event.group):
            self.elsewhere[f"group {event.group}"] += len(event.blocks)
        elif isinstance(event, Stored):
            self._stored(event, rank)
        else:
            self._removed(event, rank)

    def _first(self, group: int) -> int:
        self._group = group if self._group is None else self._group
        return self._group

    def _removed(self, event: Removed, rank: int) -> None:
        self.counts["removed"] += len(event.blocks)
        known = (self.numbers.get((rank, name)) for name in event.blocks)
        self._lose({number for number in known if number is not None})

    def _lose(self, blocks: set[int]) -> None:
        self.gone |= blocks
        self.held -= blocks

    def _stored(self, event: Stored, rank: int) -> None:
        if not event.blocks:
            return
        if event.block_tokens:
            self.block_tokens[event.block_tokens] += 1
        before = ROOT
        if event.parent is not None:
            self.counts["unseen"] += (rank, event.parent) not in self.numbers
            before = self._number(rank, event.parent, UNSEEN)
            self.held.add(before)
        blocks = [before]
        for name in event.blocks:
            blocks.append(self._number(rank, name, blocks[-1]))
        del blocks[0]
        self.counts["stored"] += len(blocks)
        self.counts["again"] += len(self.gone.intersection(blocks))
        self.gone.difference_update(blocks)
        self.held.update(blocks)
        self._asked(event, rank, before, blocks)

    def _number(self, rank: int, name: Name, parent: int) -> int:
        """The number of a block; its parent is this one where none was known."""
        number = self.numbers.setdefault((rank, name), len(self.parent))
        if number == len(self.parent):
            self.parent.append(parent)
        elif self.parent[number] == UNSEEN != parent and number not in self.path(parent):
            self.parent[number] = parent
        return number

    def _asked(self, event: Stored, rank: int, before: int, blocks: list[int]) -> None:
        """Adds the blocks to the request that they go on, or begins one."""
        one = self.tips.get(before)
        if one is None or not self._goes_on(one, event):
            found = len(self.path(before)) if before >= 0 else 0
            one = Asked(self.now_s, rank, event.session, found, len(blocks), blocks[-1], self.now_s)
            self.requests.append(one)
            self.counts["found"] += found
            self.counts["computed"] += len(blocks)
        else:
            del self.tips[before]
            self.counts["joined"] += 1
            one.last_s = self.now_s
            if len(blocks) == 1:
                one.written += 1
                self.counts["written"] += 1
            else:
                one.computed += len(blocks)
                self.counts["computed"] += len(blocks)
                one.prompt_end = blocks[-1]
        self.tips[blocks[-1]] = one

    def _goes_on(self, one: Asked, event: Stored) -> bool:
        window = (event.block_tokens or USUAL_BLOCK) / SLOWEST_TOKENS_PER_S
        in_time = not self.counts["timeless"] and self.now_s - one.last_s <= window
        return in_time and one.session == event.session and (len(event.blocks) == 1 or not one.written)

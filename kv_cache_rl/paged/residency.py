"""Which pages lie in GPU memory, which in host memory; the least recently used is evicted.

            found in gpu: touch it
    access  found in host: swap in  }  make room
            found nowhere: compute  }

    make room: oldest gpu page --swap out--> host; if that is full, oldest host page --drop--> gone
    make room without a host pool: oldest gpu page --drop--> gone

A page is a block's worth of one sequence's tokens. It keeps its number in either memory. Pages stay
after the sequence that computed them has ended, until their room is needed. A later prompt with the
same beginning finds the full ones by their chained hash.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from itertools import takewhile

from kv_cache_rl.core.blocks import chained_hash
from kv_cache_rl.core.pool import LedgerError
from kv_cache_rl.paged.block_pool import PoolError
from kv_cache_rl.paged.kv_cache import KVCache
from kv_cache_rl.paged.sequences import Sequence
from kv_cache_rl.paged.swap import HostPool, fill

ABSENT, ROOT = -1, 0
GPU, HOST, NOWHERE = 0, 1, 2
"""Places where an access finds its page."""


@dataclass(slots=True, eq=False)
class Page:
    """A block's worth of tokens."""

    number: int = -1
    """-1 until its first access."""
    block: int = ABSENT
    """In the pool; ABSENT while the page lies elsewhere, or before its block is taken."""
    row: int = ABSENT
    """In the host pool."""
    key: int = ROOT
    """Chained hash of its tokens, once all of them are computed; ROOT before."""
    holders: int = 0
    """Running sequences with the page in their tables."""


@dataclass(frozen=True, slots=True)
class Access:
    """A running sequence needed a page at a step."""

    step: int
    request: int
    page: int
    found: int


@dataclass(slots=True)
class Residency:
    """The pages of a scheduler over its cache and, if it swaps, its host pool."""

    cache: KVCache
    host: HostPool | None
    accesses: list[Access] = field(default_factory=list)
    evictions: int = 0
    """Pages that left a tier because another page needed the room."""
    drops: int = 0
    """The evicted pages that did not move to another tier: their contents are gone."""
    swapped_in: int = 0
    swapped_out: int = 0
    cleared: int | None = None
    """Accesses before pages first left although their room was not needed; None: they never did.

    A trace does not show such a step.
    """
    _gpu: dict[Page, None] = field(default_factory=dict)  # oldest first
    _below: dict[Page, None] = field(default_factory=dict)
    _known: dict[int, Page] = field(default_factory=dict)
    _pages: int = 0
    # Holds the one reference to the block of every page without a running sequence, so that the
    # pool's books stay exact.
    _idle: Sequence = field(default_factory=Sequence)

    def __post_init__(self) -> None:
        self.cache.live[self._idle.id] = self._idle

    def find(self, tokens: Many[int]) -> list[Page]:
        """The pages, in either memory, of the longest computed prefix of `tokens`.

        At least one token is left to compute.
        """
        size, key, found = self.cache.pool.block_tokens, ROOT, []
        for start in range(0, len(tokens) - size, size):
            key = chained_hash(key, tokens[start : start + size])
            if key not in self._known:
                break
            found.append(self._known[key])
        return found

    def present(self, pages: Many[Page]) -> list[Page]:
        """The leading pages that are still in either memory; pages behind a gap are of no use."""
        return list(takewhile(lambda page: self._place(page) != NOWHERE, pages))

    def bring(self, step: int, tables: Many[tuple[int, list[Page]]]) -> None:
        """Accesses every page of every running sequence, given as (request, pages).

        All of them lie in GPU memory afterwards, the new ones as empty room. Pages that are there
        are touched first, so that no page of a running sequence is ever evicted. Swapping in comes
        before new pages: it frees as many rows as it takes, so that no page that is to come in is
        dropped.
        """
        by_place: tuple[list[tuple[int, Page]], ...] = ([], [], [])
        for request, pages in tables:
            # The first page of a prompt becomes the most recent: other prompts may begin with it.
            for page in reversed(pages):
                by_place[self._place(page)].append((request, page))
        for request, page in (entry for entries in by_place for entry in entries):
            self._access(step, request, page)

    def _place(self, page: Page) -> int:
        return GPU if page in self._gpu else HOST if page in self._below else NOWHERE

    def _access(self, step: int, request: int, page: Page) -> None:
        found = self._place(page)
        if page.number < 0:
            page.number, self._pages = self._pages, self._pages + 1
        self.accesses.append(Access(step, request, page.number, found))
        if found == GPU:
            del self._gpu[page]
        elif found == HOST:
            self._swap_in(page)
        else:
            self._make_room()
        self._gpu[page] = None

    def _swap_in(self, page: Page) -> None:
        assert self.host is not None, "only a host pool has pages below"
        contents = self.host.read([page.row])
        self.host.give([page.row])
        page.row = ABSENT
        del self._below[page]
        self._make_room()
        taken = self.cache.pool.take(1)
        fill(self.cache.pool, taken, contents)
        page.block = taken[0]
        self._idle.blocks += taken
        self.swapped_in += 1

    def _make_room(self) -> None:
        """Makes room for one more page: evicts the oldest one if there is none."""
        if len(self._gpu) < self.cache.pool.blocks:
            return
        page = next(iter(self._gpu))
        if page.holders or page.block == ABSENT:
            raise LedgerError(
                f"page {page.number} would be evicted while {page.holders} running sequences hold it"
            )
        del self._gpu[page]
        self.evictions += 1
        if self.host is None:
            self._forget(page)
        else:
            if not self.host.free:
                oldest = next(iter(self._below))
                del self._below[oldest]
                self.evictions += 1
                self.host.give([oldest.row])
                oldest.row = ABSENT
                self._forget(oldest)
            page.row = self.host.store(self.cache.pool, [page.block])[0]
            self._below[page] = None
            self.swapped_out += 1
        self._idle.blocks.remove(page.block)
        self.cache.pool.drop(page.block)
        page.block = ABSENT

    def _forget(self, page: Page) -> None:
        self.drops += 1
        if self._known.get(page.key) is page:
            del self._known[page.key]

    def attach(self, sequence: Sequence, pages: Many[Page], length: int) -> None:
        """Makes `pages` the table of a sequence that starts to run with `length` tokens.

        All of them lie in GPU memory, with their tokens computed.
        """
        for page in pages:
            self.cache.pool.share(page.block)
        self.cache.adopt(sequence, [page.block for page in pages], length)
        for page in pages:
            if not page.holders:
                self._idle.blocks.remove(page.block)
                self.cache.pool.drop(page.block)
            page.holders += 1

    def settle(self, sequence: Sequence, pages: Many[Page]) -> None:
        """Notes the blocks that the cache took for new pages, and makes the full pages findable."""
        for page, block in zip(pages, sequence.blocks, strict=True):
            if page.block == ABSENT:
                page.block, page.holders = block, 1
            elif page.block != block:
                raise LedgerError(
                    f"page {page.number} lies in block {page.block}, the table of its sequence says {block}"
                )
        size, key = self.cache.pool.block_tokens, ROOT
        for at in range(sequence.length // size):
            if pages[at].key == ROOT:
                pages[at].key = chained_hash(key, sequence.tokens[at * size : (at + 1) * size])
                self._known.setdefault(pages[at].key, pages[at])
            key = pages[at].key

    def detach(self, sequence: Sequence, pages: Many[Page]) -> None:
        """Releases a sequence that stops running; its pages stay until their room is needed."""
        for page in pages:
            page.holders -= 1
            if not page.holders:
                self.cache.pool.share(page.block)
                self._idle.blocks.append(page.block)
        self.cache.release(sequence)

    def discard(self, pages: Many[Page]) -> None:
        """Forgets new pages that were given room but never computed."""
        for page in pages:
            if page.block == ABSENT and page in self._gpu:
                del self._gpu[page]
                self._note_clearing()

    def clear(self) -> None:
        """Frees every block and row that no running sequence holds."""
        self._note_clearing()
        for page in [page for page in self._gpu if not page.holders]:
            self._idle.blocks.remove(page.block)
            self.cache.pool.drop(page.block)
            page.block = ABSENT
            del self._gpu[page]
        while self.host is not None and self._below:
            page = self._below.popitem()[0]
            self.host.give([page.row])
            page.row = ABSENT
        self._known = {page.key: page for page in self._gpu if page.key != ROOT}

    def _note_clearing(self) -> None:
        self.cleared = len(self.accesses) if self.cleared is None else self.cleared

    def check(self) -> None:
        """Raises LedgerError unless pages, pools and tables agree."""
        self.cache.check()
        if self.cache.pool.used != len(self._gpu):
            raise LedgerError(
                f"{len(self._gpu)} pages lie in GPU memory, the pool has {self.cache.pool.used} blocks in use"
            )
        if self.host is not None:
            self.host.check(page.row for page in self._below)
            if self.host.used != len(self._below):
                raise LedgerError(
                    f"{len(self._below)} pages lie in host memory, its pool has {self.host.used} rows in use"
                )

    def check_empty(self) -> None:
        """Raises PoolError if a pool is in use: evictions would not be decided here alone."""
        if self.cache.pool.used or (self.host is not None and self.host.used):
            raise PoolError(
                "the scheduler needs pools of its own; release every sequence first, or build new ones"
            )

"""Which pages lie in GPU memory, which in host memory, and who gives way: least recently used, page by page.

            found in gpu: touch it
    access  found in host: swap in  }  make room: oldest gpu page --swap out--> host; oldest host page --drop--> gone
            found nowhere: compute  }  (without a host pool: oldest gpu page --drop--> gone)

A page is a block's worth of one sequence's tokens and keeps its number wherever it lies. Pages outlive the
sequence that computed them, until their room is needed: a later prompt that begins alike finds the full ones
by chained hash."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from itertools import takewhile

from kv_cache_rl.core.blocks import chained_hash
from kv_cache_rl.core.pool import LedgerError
from kv_cache_rl.paged.block_pool import PoolError
from kv_cache_rl.paged.block_table import Sequence
from kv_cache_rl.paged.kv_cache import KVCache
from kv_cache_rl.paged.swap import HostPool, fill

ABSENT, ROOT = -1, 0
GPU, HOST, NOWHERE = 0, 1, 2
"""Where an access found its page."""


@dataclass(slots=True, eq=False)
class Page:
    """A block's worth of tokens. `number` is -1 until it is accessed for the first time."""

    number: int = -1
    block: int = ABSENT
    """In the pool; ABSENT while it lies elsewhere, or before its room is taken."""
    row: int = ABSENT
    """In the host pool."""
    key: int = ROOT
    """Chained hash of its tokens, once they are all computed."""
    holders: int = 0
    """Running sequences that have it in their tables."""


@dataclass(frozen=True, slots=True)
class Access:
    """A running sequence needed a page at a step."""

    step: int
    request: int
    page: int
    found: int


@dataclass(slots=True)
class Residency:
    """The pages of a scheduler over its cache and, if it swaps, a host pool that nobody else uses."""

    cache: KVCache
    host: HostPool | None
    accesses: list[Access] = field(default_factory=list)
    evictions: int = 0
    """Pages that had to leave a tier for another."""
    drops: int = 0
    """Of them, those whose contents are gone."""
    swapped_in: int = 0
    swapped_out: int = 0
    cleared: int | None = None
    """How many accesses there had been when pages first left although nobody needed their room: no trace
    tells of that.
    """
    _gpu: dict[Page, None] = field(default_factory=dict)  # oldest first
    _below: dict[Page, None] = field(default_factory=dict)
    _known: dict[int, Page] = field(default_factory=dict)
    _pages: int = 0
    # Holds the one reference of every block whose page no running sequence has, so that the pool's books stay
    # exact.
    _idle: Sequence = field(default_factory=Sequence)

    def __post_init__(self) -> None:
        self.cache.live[self._idle.id] = self._idle

    def find(self, tokens: Many[int]) -> list[Page]:
        """The pages, in either memory, of the longest computed prefix of `tokens`, which leaves at least one
        token to compute.
        """
        size, key, found = self.cache.pool.block_tokens, ROOT, []
        for start in range(0, len(tokens) - size, size):
            key = chained_hash(key, tokens[start : start + size])
            if key not in self._known:
                break
            found.append(self._known[key])
        return found

    def present(self, pages: Many[Page]) -> list[Page]:
        """The leading pages that are still in either memory: behind a gap, nothing can be computed upon."""
        return list(takewhile(lambda page: self._place(page) != NOWHERE, pages))

    def bring(self, step: int, tables: Many[tuple[int, list[Page]]]) -> None:
        """Accesses every page of every running sequence (request, pages): all lie in GPU memory afterwards,
        the new ones as room.

        What is there is touched before anything is brought in, so that no page of a running sequence ever
        gives way; swapping in comes before new pages, since it leaves as many rows as it takes: no page on
        its way up is dropped by another."""
        by_place: tuple[list[tuple[int, Page]], ...] = ([], [], [])
        for request, pages in tables:
            for page in reversed(
                pages
            ):  # the first page of a prompt ends most recent: others may begin alike
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
        """Room for one page more; the oldest gives way if there is none."""
        if len(self._gpu) < self.cache.pool.blocks:
            return
        page = next(iter(self._gpu))
        if page.holders or page.block == ABSENT:
            raise LedgerError(
                f"page {page.number} would give way while {page.holders} running sequences hold it"
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
        """Makes `pages`, all brought and filled, the table of a sequence that starts to run with `length`
        tokens.
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
        """Notes which blocks the cache took for the pages that were only room, and makes the full ones
        findable.
        """
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
        """The sequence stops running; its pages stay where they are until their room is needed."""
        for page in pages:
            page.holders -= 1
            if not page.holders:
                self.cache.pool.share(page.block)
                self._idle.blocks.append(page.block)
        self.cache.release(sequence)

    def discard(self, pages: Many[Page]) -> None:
        """Pages that were given room and never computed: they are nowhere again."""
        for page in pages:
            if page.block == ABSENT and page in self._gpu:
                del self._gpu[page]
                self._note_clearing()

    def clear(self) -> None:
        """Gives back every block and row that no running sequence holds."""
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
        """Raises LedgerError unless pages, pools and tables agree to the block."""
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

    def refuse_occupied(self) -> None:
        """Raises PoolError if somebody else uses the pools: whose pages give way would not be decided here
        alone.
        """
        if self.cache.pool.used or (self.host is not None and self.host.used):
            raise PoolError(
                "the scheduler needs pools of its own; release every sequence first, or build new ones"
            )

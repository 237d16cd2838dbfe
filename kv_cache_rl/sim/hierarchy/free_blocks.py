"""The blocks of an engine's pool under a policy of the lab: which free block is overwritten next.

    stored    a block that a request holds got content: its name, and the block before it
    used      a request lets blocks go, the last first: each is an access, as in a replay
    freed     no request holds these any more: they may leave
    taken     a request holds a free block again
    victims   so many free blocks leave; what is known of them stays, for ghosts and counts
    dropped   a block lost its content otherwise

A block that a request holds keeps its place in the order. Only when the policy names it is it set aside, and
it is put back when it is used, among those that leave first. So a decision costs what it costs in a replay:
O(1) in a queue, O(log n) under a rank.

In a prefix tree a block leaves after its children, as in a replay. LRU needs no such rule: a block is never
used before its children, so its order is that of the engine to the block.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from kv_cache_rl.core.numbers import whole_number
from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.hierarchy import heap, order
from kv_cache_rl.sim.hierarchy.dynamics import new_state
from kv_cache_rl.sim.hierarchy.lists import link_back
from kv_cache_rl.sim.hierarchy.memory import record_access
from kv_cache_rl.sim.hierarchy.moves import enter, evict, leave
from kv_cache_rl.sim.hierarchy.policies import parsed
from kv_cache_rl.sim.hierarchy.slots import Slots, hand_passes, set_aside, slots_for
from kv_cache_rl.sim.hierarchy.spec import HierarchyError, one_tier
from kv_cache_rl.sim.hierarchy.state import NONE, TOP, Order
from kv_cache_rl.sim.hierarchy.traces.trace import PAGE_TOKENS, Trace
from kv_cache_rl.sim.hierarchy.tree import blocked, leaf_below

MOST = 2**24


class Pins(NamedTuple):
    """Which pages a request holds."""

    held: np.ndarray  # uint8 [P] whether a request holds the page
    aside: np.ndarray  # uint8 [P] whether it was set aside
    list: np.ndarray  # int64 [P] the list that it was set aside from, NONE: a heap
    count: np.ndarray  # int64 [1] pages aside


class FreeBlocks:
    """The blocks of a pool by their numbers, and the order in which the free ones leave."""

    def __init__(self, policy: str, blocks: int, block_tokens: int = PAGE_TOKENS) -> None:
        """A pool of `blocks` blocks without content.

        Args:
            policy: its name, and parameters after colons (`regret_aware:regret_weight=2`).

        Raises:
            HierarchyError: an unknown policy or parameter, or a number of blocks that is none.
        """
        self.policy, self._tuning = parsed(policy)
        self._blocks = whole_number("blocks", blocks, 1, MOST, HierarchyError)
        self._tokens = block_tokens
        self.clear()

    def clear(self) -> None:
        """All blocks lose their content, and nothing is known of any."""
        pages = slots_for(self._blocks)
        path = _one_path(self._blocks, pages, self._tokens)
        self._state = state = new_state(path, one_tier(self._blocks), self.policy, **self._tuning)
        state.page["parent"], state.page["depth"] = NONE, 0
        if self.policy == "lru":
            state.settings.closed = 0
        self._pins = Pins(
            np.zeros(pages, np.uint8),
            np.zeros(pages, np.uint8),
            np.zeros(pages, np.int64),
            np.zeros(1, np.int64),
        )
        self._parent, self._depth, self._tier = (state.page[name] for name in ("parent", "depth", "tier"))
        self._slots = Slots[Hashable](state)
        self._at: dict[int, int] = {}
        self._block = np.full(pages, NONE)
        self._free = 0

    def __len__(self) -> int:
        """Free blocks with content."""
        return self._free

    def stored(self, block: int, name: Hashable, before: int | None) -> None:
        """A block that a request holds has content now, behind that of the block `before`.

        Content that another block has too is another page: each copy is used and leaves by itself.
        """
        slot = self._at.get(block)
        if slot is not None:
            if self._slots.name[slot] in (name, (name, block)):
                return
            self.dropped(block)
        slot = self._slots.slot_of(name)
        if self._block[slot] != NONE:
            slot = self._slots.slot_of((name, block))
        del self._slots.gone[self._slots.name[slot]]
        self._at[block], self._block[slot], self._pins.held[slot] = slot, block, 1
        above = self._at.get(before, NONE) if before is not None else NONE
        self._depth[slot] = 0 if above == NONE else min(self._depth[above] + 1, self._blocks - 1)
        self._parent[slot] = above if self._state.settings.closed else NONE

    def used(self, blocks: Sequence[int]) -> None:
        """A request lets these go, the last first; those without content do not count."""
        slots = [slot for slot in map(self._at.get, blocks) if slot is not None]
        if slots:
            _use(self._state, self._pins, np.array(slots))

    def freed(self, blocks: Sequence[int]) -> None:
        """No request holds these any more; all have content."""
        slots = np.array([self._at[block] for block in blocks], np.int64)
        self._free += len(slots)
        self._pins.held[slots] = 0
        if self._pins.count[0] or (self._tier[slots] == NONE).any():
            _release(self._state, self._pins, slots)

    def taken(self, block: int) -> None:
        """A request holds a free block."""
        self._pins.held[self._at[block]] = 1
        self._free -= 1

    def holds(self, block: int) -> bool:
        """Whether a block has content."""
        return block in self._at

    def free(self) -> list[int]:
        """The free blocks with content, in no order."""
        return [block for block, slot in self._at.items() if not self._pins.held[slot]]

    def victims(self, count: int) -> list[int]:
        """So many free blocks that leave now, the first first.

        Raises:
            HierarchyError: fewer are free.
        """
        if count > self._free:
            raise HierarchyError(f"{count} blocks should leave and {self._free} are free; ask for fewer")
        slots = np.empty(count, np.int64)
        found = int(_victims(self._state, self._pins, slots))
        if found < count:
            left = np.flatnonzero((self._pins.held == 0) & (self._tier == TOP))[: count - found]
            _force(self._state, self._pins, left)
            slots[found:] = left
        self._free -= count
        return [self._emptied(slot) for slot in slots.tolist()]

    def dropped(self, block: int) -> None:
        """A block that a request holds, or held until now, has lost its content, if it had any."""
        slot = self._at.get(block)
        if slot is None:
            return
        self._pins.held[slot] = 0
        if self._tier[slot] != NONE:
            _drop(self._state, self._pins, slot)
        self._emptied(slot)

    def _emptied(self, slot: int) -> int:
        block = int(self._block[slot])
        del self._at[block]
        self._block[slot] = NONE
        self._slots.gone[self._slots.name[slot]] = None
        return block


def _one_path(length: int, pages: int, block_tokens: int) -> Trace:
    """A trace of so many pages, with a request as deep as any in a pool of `length` blocks."""
    one, none = np.ones(1, np.int64), np.zeros(1, np.int64)
    return Trace(
        name="an engine's pool",
        chained=True,
        block_tokens=block_tokens,
        time_s=np.zeros(1),
        sequence=none,
        first_run=np.array([0, 1]),
        run_start=none,
        run_length=length * one,
        blocks=pages,
        page_bytes=0,
        input_tokens=none,
        output_tokens=none,
        ends=np.ones(1, bool),
    )


@uncounted
def _use(s, pins, slots):
    """Accesses pages in this order; those that lie nowhere enter."""
    _put_back(s, pins, slots)
    for p in slots:
        record_access(s, p)
        if s.page[p].tier == NONE:
            order.announced(s, TOP, p)
            enter(s, TOP, p)
        else:
            order.touched(s, TOP, p)


@uncounted
def _release(s, pins, slots):
    """Pages may leave; those that were never accessed enter."""
    _put_back(s, pins, slots)
    for p in slots:
        if s.page[p].tier == NONE:
            order.announced(s, TOP, p)
            enter(s, TOP, p)


@uncounted
def _put_back(s, pins, slots):
    """Puts pages back that were set aside: of these the first of `slots` leaves first."""
    for i in range(len(slots) - 1, -1, -1):
        p = slots[i]
        if pins.aside[p] == 0:
            continue
        pins.aside[p] = 0
        pins.count[0] -= 1
        if s.settings.order == Order.LISTED:
            link_back(s, TOP, p, pins.list[p])
        elif s.page[p].place == NONE and not blocked(s, TOP, p):
            heap.add(s, TOP, p)


@uncounted
def _victims(s, pins, out):
    """Fills `out` with the pages that leave, and returns how many there are: none is left, or it is full."""
    found, passed, listed = 0, 0, s.settings.order == Order.LISTED
    while found < len(out):
        tier = s.tiers[TOP]
        if (listed and tier.used == pins.count[0]) or (not listed and tier.heaped == 0):
            break
        p = order.named(s, TOP)
        if pins.held[p] == 0:
            below = leaf_below(s, TOP, p) if listed else p
            out[found] = below if pins.held[below] == 0 else p
            evict(s, TOP, out[found])
            found, passed = found + 1, 0
        elif hand_passes(s, p):
            passed += 1
            if passed > tier.used:
                break
        else:
            _set_aside(s, pins, p)
    return found


@uncounted
def _set_aside(s, pins, p):
    """Takes a page that a request holds out of those that can be named."""
    pins.aside[p] = 1
    pins.count[0] += 1
    pins.list[p] = set_aside(s, p)


@uncounted
def _force(s, pins, slots):
    """These leave, although children of theirs are held."""
    _put_back(s, pins, slots)
    for p in slots:
        leave(s, p)


@uncounted
def _drop(s, pins, p):
    """A page goes, wherever it is."""
    if pins.aside[p]:
        pins.aside[p] = 0
        pins.count[0] -= 1
        if s.settings.order == Order.LISTED:
            link_back(s, TOP, p, pins.list[p])
    leave(s, p)

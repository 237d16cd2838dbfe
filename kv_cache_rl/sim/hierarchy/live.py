"""A tier whose blocks come and go one by one, as an engine says: the lab's policies outside of a replay.

    asked      a block is wanted: counted, and used where it is held
    announced  a block that is not held is about to enter; queues learn from their ghosts
    victims    room is made
    entered    the block is held

In this order a page trace is decided here as it is in a replay, access by access. Blocks are equal, have
names of any kind, and no parents. What is known of a block that left is kept until REMEMBERED times as many
others as fit have been asked for since (`slots`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic

import numpy as np

from kv_cache_rl.core.numbers import whole_number
from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.hierarchy import heap, order
from kv_cache_rl.sim.hierarchy.dynamics import new_state
from kv_cache_rl.sim.hierarchy.lists import link_back, link_in
from kv_cache_rl.sim.hierarchy.memory import record_access
from kv_cache_rl.sim.hierarchy.moves import enter, evict, leave
from kv_cache_rl.sim.hierarchy.slots import Name, Slots, hand_passes, set_aside, slots_for
from kv_cache_rl.sim.hierarchy.spec import HierarchyError, one_tier
from kv_cache_rl.sim.hierarchy.state import NONE, TOP, Order
from kv_cache_rl.sim.hierarchy.traces.trace import pages

MOST = 2**24


class LiveTier(Generic[Name]):
    """The blocks of one tier, and the order in which they leave."""

    def __init__(self, policy: str, capacity: int, seed: int = 0) -> None:
        """An empty tier for `capacity` blocks under a policy of the lab.

        Raises:
            HierarchyError: an unknown policy, or a capacity that is none.
        """
        self.policy = policy
        self.capacity = whole_number("capacity", capacity, 1, MOST, HierarchyError)
        self._seed = seed
        self._begin()

    def _begin(self) -> None:
        trace = pages("a live tier", np.zeros(1, np.int64), blocks=slots_for(self.capacity))
        self._state = new_state(trace, one_tier(self.capacity), self.policy, self._seed)
        self._slots = Slots[Name](self._state)
        self._slot, self._name, self._gone = self._slots.of, self._slots.name, self._slots.gone

    def __len__(self) -> int:
        """Blocks held."""
        return len(self._slot) - len(self._gone)

    def __contains__(self, name: Name) -> bool:
        """Whether a block is held."""
        return name in self._slot and name not in self._gone

    def asked(self, name: Name) -> bool:
        """Counts that a block is wanted; whether it is held, and so was used."""
        held = bool(_asked(self._state, self._slots.slot_of(name)))
        if not held:
            self._gone.move_to_end(name)
        return held

    def announced(self, name: Name) -> None:
        """A block that is not held is about to enter; room is made after this."""
        order.announced(self._state, TOP, self._slots.slot_of(name))

    def entered(self, name: Name) -> None:
        """The block is held from now on, even beyond the capacity."""
        enter(self._state, TOP, self._slots.slot_of(name))
        del self._gone[name]

    def renewed(self, name: Name) -> None:
        """A block that is held counts as the newest of those like it, which is no use of it."""
        _renewed(self._state, self._slot[name])

    def removed(self, name: Name) -> None:
        """A block goes for another reason than want of room."""
        leave(self._state, self._slot[name])
        self._gone[name] = None

    def victims(self, count: int, spared: Callable[[Name], bool] = lambda _: False) -> list[Name]:
        """So many blocks that leave now, the first first, without those that are spared.

        Raises:
            HierarchyError: fewer could leave; those that can are gone.
        """
        found, aside, passed = [], list[tuple[int, int]](), set[int]()
        while len(found) < count and len(self) > len(aside) + len(passed):
            slot = int(order.victim(self._state, TOP))
            if spared(self._name[slot]):
                if hand_passes(self._state, slot):
                    passed.add(slot)
                else:
                    aside.append((slot, int(set_aside(self._state, slot))))
                continue
            evict(self._state, TOP, slot)
            name = self._name[slot]
            self._gone[name] = None
            found.append(name)
        for slot, which in reversed(aside):
            _put_back(self._state, slot, which)
        if len(found) < count:
            raise HierarchyError(f"{count} blocks should leave and {len(found)} can; spare fewer")
        return found

    def clear(self) -> None:
        """All blocks go, and all that was known of them."""
        self._begin()

    def names(self) -> Iterable[Name]:
        """The blocks held, in no order."""
        return (name for name in self._slot if name not in self._gone)


@uncounted
def _asked(s, p):
    """Counts an access; whether the page lies in the tier."""
    record_access(s, p)
    if s.page[p].tier == NONE:
        return False
    order.touched(s, TOP, p)
    return True


@uncounted
def _renewed(s, p):
    """Makes a page the newest of its list, or the last that was accessed."""
    if s.settings.order == Order.LISTED:
        hand_passes(s, p)
        link_in(s, TOP, p, set_aside(s, p))
    else:
        s.counters.clock += 1
        s.page[p].last_access = s.page[p].inserted = s.counters.clock
        order.changed(s, TOP, p)


@uncounted
def _put_back(s, p, which):
    """Puts a page back that was set aside, among those that leave first."""
    if s.settings.order == Order.LISTED:
        link_back(s, TOP, p, which)
    else:
        heap.add(s, TOP, p)

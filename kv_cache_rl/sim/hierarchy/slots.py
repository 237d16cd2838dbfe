"""Pages of a replay for blocks that come one by one, each under a name of any kind, until it is forgotten."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

import numpy as np

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.hierarchy import heap
from kv_cache_rl.sim.hierarchy.lists import link_out, node_of, page_of
from kv_cache_rl.sim.hierarchy.spec import HierarchyError
from kv_cache_rl.sim.hierarchy.state import NONE, PAGE, TOP, Order, State

REMEMBERED = 3
"""Blocks that left and are remembered, for each that fits: ARC's ghosts are two, S3-FIFO's one."""
SPARE = 64
"""Further blocks that may be announced at the same time."""

Name = TypeVar("Name", bound=Hashable)


def slots_for(capacity: int) -> int:
    """Pages that a tier for so many blocks needs, with those that are remembered."""
    return (1 + REMEMBERED) * capacity + SPARE


class Slots(Generic[Name]):
    """Which page of a state is which block."""

    def __init__(self, state: State) -> None:
        count = len(state.page)
        self._state = state
        self._free = list(range(count - 1, -1, -1))
        self.of: dict[Name, int] = {}
        self.name: list[Any] = [None] * count
        self.gone: OrderedDict[Name, None] = OrderedDict()
        """Blocks that are known and not held, the one asked for longest ago first."""

    def slot_of(self, name: Name) -> int:
        """The page of a block; one that is not known becomes known, and is not held."""
        slot = self.of.get(name)
        if slot is None:
            slot = self._free.pop() if self._free else self._forgotten()
            self.of[name], self.name[slot] = slot, name
            self.gone[name] = None
        return slot

    def _forgotten(self) -> int:
        """The page of the block that was asked for longest ago and is not held, emptied.

        A block with children that are held is passed over: they count themselves there.
        """
        state = self._state
        for _ in range(len(self.gone)):
            name, _ = self.gone.popitem(last=False)
            slot = self.of[name]
            if state.settings.chained and state.kids[slot].any():
                self.gone[name] = None
                continue
            del self.of[name]
            _unlink(state, slot)
            state.ring[state.ring == slot] = NONE
            state.regret[slot] = 0.0
            state.page[slot] = _new_page()
            return slot
        raise HierarchyError(f"all {len(self.of):,} blocks are held; make room first (victims)")


def _new_page() -> Any:
    page = np.zeros((), PAGE)
    for field in ("tier", "left_at", "place", "parent", "child", "elder", "younger"):
        page[field] = NONE
    page["full_bytes"] = 1
    return page[()]


@uncounted
def _unlink(s, p):
    """Takes a page that lies nowhere out of the ghosts, if it is one; no way down leads to it any more."""
    s.counters.named = NONE
    if s.settings.order == Order.LISTED and s.node[node_of(s, TOP, p)].list != NONE:
        link_out(s, TOP, p)


@uncounted
def hand_passes(s, p):
    """Whether a hand points at a page, which moves on then and leaves the page where it is."""
    if s.tiers[TOP].hand != p:
        return False
    s.tiers[TOP].hand = page_of(s, TOP, s.node[node_of(s, TOP, p)].previous)
    return True


@uncounted
def set_aside(s, p):
    """Takes a page out of those that can leave; returns the list that it was in."""
    if s.settings.order != Order.LISTED:
        heap.remove(s, TOP, p)
        return NONE
    which = s.node[node_of(s, TOP, p)].list
    link_out(s, TOP, p)
    return which

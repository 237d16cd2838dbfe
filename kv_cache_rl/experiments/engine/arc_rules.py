"""ARC as a host tier in plain Python, by the paper's rules or by vLLM's, which differ in three places.

    a ghost that returns    paper: frequent                        vLLM: recent, as if it were new
    the recent part gives   paper: where it is above its target    vLLM: also at its target, rounded down
    ghosts                  paper: both parts and their ghosts     vLLM: each of the two lists takes
                            take the tier twice                          the tier once

By the paper's it equals the lab's `arc`, by vLLM's it equals vLLM's: the three are the whole difference, but
that the lab's does not count blocks that it must spare while it looks for another.

Source: Megiddo, Modha, FAST 2003, figure 4; vLLM 0.32, v1/kv_offload/cpu/policies/arc.py.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

RECENT, FREQUENT = "recent", "frequent"
OTHER = {RECENT: FREQUENT, FREQUENT: RECENT}


class PlainArc:
    """A host tier (offload.Host) under ARC."""

    def __init__(
        self, blocks: int, returns_recent: bool = True, gives_at_target: bool = True, wide_ghosts: bool = True
    ) -> None:
        """An empty tier; each flag takes vLLM's rule in place of the paper's."""
        self.room, self.target = blocks, 0.0
        self.returns_recent, self.gives_at_target, self.wide_ghosts = (
            returns_recent,
            gives_at_target,
            wide_ghosts,
        )
        self.part = {name: OrderedDict[int, None]() for name in OTHER}
        self.ghosts = {name: OrderedDict[int, None]() for name in OTHER}
        """By the part that they left, the oldest first."""
        self._coming = ""
        """The part that the last block to be announced had left; "": it is no ghost."""
        self._back = set[int]()

    def holds(self, block: int) -> bool:
        """Whether a block can be loaded."""
        return block in self.part[RECENT] or block in self.part[FREQUENT]

    def serve(self, loaded: Sequence[int], offered: Sequence[int]) -> tuple[list[int], list[int]]:
        """Loads some blocks of a request and takes others in; which ones entered, and which ones left."""
        entering, spared = [block for block in offered if not self.holds(block)], set(offered)
        for block in reversed(entering):
            self._learn(block)
        held = sum(map(len, self.part.values()))
        leaving = max(0, len(entering) + held - self.room)
        if leaving > held - sum(map(self.holds, spared)):
            entering, leaving = [], 0
        gone = [self._evicted(spared) for _ in range(leaving)]
        for block in entering:
            self._enter(block)
        new = set(entering)
        for block in reversed([*loaded, *offered]):
            if block in new:
                self.part[self._part_of(block)].move_to_end(block)
            elif self.holds(block):
                del self.part[self._part_of(block)][block]
                self.part[FREQUENT][block] = None
        return entering, gone

    def _part_of(self, block: int) -> str:
        return RECENT if block in self.part[RECENT] else FREQUENT

    def _learn(self, block: int) -> None:
        """A ghost that returns moves the target."""
        self._coming = next((name for name, ghosts in self.ghosts.items() if block in ghosts), "")
        if not self._coming:
            return
        step = max(1.0, len(self.ghosts[OTHER[self._coming]]) / len(self.ghosts[self._coming]))
        more = self.target + step if self._coming == RECENT else self.target - step
        self.target = min(max(more, 0.0), self.room)
        self._back.add(block)
        if self.wide_ghosts:
            self.ghosts[self._coming].move_to_end(block)
        else:
            del self.ghosts[self._coming][block]

    def _evicted(self, spared: set[int]) -> int:
        recent = len(self.part[RECENT])
        if self.gives_at_target:
            first = RECENT if recent >= int(self.target) else FREQUENT
        else:
            at = recent == self.target and self._coming == FREQUENT
            first = RECENT if recent > self.target or at else FREQUENT
        name, block = next(
            (name, one) for name in (first, OTHER[first]) for one in self.part[name] if one not in spared
        )
        del self.part[name][block]
        self.ghosts[name][block] = None
        if self.wide_ghosts:
            for ghosts in self.ghosts.values():
                _forget(ghosts, self.room)
        return block

    def _enter(self, block: int) -> None:
        self.part[FREQUENT if block in self._back and not self.returns_recent else RECENT][block] = None
        self._back.discard(block)
        for ghosts in self.ghosts.values():
            ghosts.pop(block, None)
        if not self.wide_ghosts:
            _forget(self.ghosts[RECENT], self.room - len(self.part[RECENT]))
            _forget(self.ghosts[FREQUENT], self.room - len(self.ghosts[RECENT]))


def _forget(ghosts: OrderedDict[int, None], room: int) -> None:
    while len(ghosts) > max(0, room):
        ghosts.popitem(last=False)

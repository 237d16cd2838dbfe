"""Pages that could leave a tier under a rank: a heap of resting keys, and where keys drift a tournament or a
scan.

A heap is evaluated once per touch of a page and gives the lowest key in O(log n). So does a tournament where
it is known when the order of two pages changes next. A scan adds to every key at rest what time has added
since, O(n) per victim. Under both, the page that comes first in `heap` leaves first among equals.
"""

import numpy as np

from kv_cache_rl.core.draws import WEYL
from kv_cache_rl.jit import uncounted
from kv_cache_rl.policies.rank import rank
from kv_cache_rl.sim.compiled import mixed, unit
from kv_cache_rl.sim.hierarchy import tournament
from kv_cache_rl.sim.hierarchy.observe import look, use_class
from kv_cache_rl.sim.hierarchy.state import NONE, Order


@uncounted
def add(s, t, p):
    """Enters a page among those that could leave a tier."""
    i = s.tiers[t].heaped
    s.tiers[t].heaped += 1
    s.heap[t, i], s.page[p].place = p, i
    rekey(s, t, p)


@uncounted
def rekey(s, t, p):
    """Gives a page of the heap its present key."""
    page = s.page[p]
    i = page.place
    look(s, t, p)
    s.key[t, i] = rank(s.settings.rank, s.row)
    if s.settings.order == Order.HEAPED:
        s.tie[t, i] = page.inserted
        _settle(s, t, i)
        return
    s.last[t, i] = page.last_access
    if s.settings.returns == 1:
        s.use_class[t, i] = use_class(s, p)
    if s.settings.order == Order.MATCHED:
        tournament.touched(s, t, i)


@uncounted
def remove(s, t, p):
    """Takes a page from among those that could leave a tier."""
    i, end = s.page[p].place, s.tiers[t].heaped - 1
    s.tiers[t].heaped = end
    s.page[p].place = NONE
    if s.settings.order == Order.MATCHED:
        tournament.touched(s, t, end)
    if i == end:
        return
    _move(s, t, end, i)
    if s.settings.order == Order.HEAPED:
        s.tie[t, i] = s.tie[t, end]
        _settle(s, t, i)
        return
    s.last[t, i] = s.last[t, end]
    if s.settings.returns == 1:
        s.use_class[t, i] = s.use_class[t, end]
    if s.settings.order == Order.MATCHED:
        tournament.touched(s, t, i)


@uncounted
def lowest(s, t):
    """The page whose key is lowest now."""
    if s.settings.order == Order.HEAPED:
        return s.heap[t, 0]
    if s.settings.order == Order.MATCHED:
        return s.heap[t, tournament.lowest(s, t)]
    if s.settings.draws == 1:
        return s.heap[t, int(_draw(s) * s.tiers[t].heaped)]
    return s.heap[t, _scanned(s, t)]


@uncounted
def _scanned(s, t):
    """Index of the page whose key is lowest, found by reading all."""
    best, at = np.inf, 0
    for i in range(s.tiers[t].heaped):
        key = tournament.present_key(s, t, i)
        if key < best:
            best, at = key, i
    return at


@uncounted
def _draw(s):
    """A uniform number in [0, 1), the next of the replay's own sequence."""
    s.counters.drawn += 1
    return unit(mixed((np.uint64(s.settings.seed) + np.uint64(s.counters.drawn)) * WEYL))


@uncounted
def _move(s, t, i, j):
    """Copies page and key of the entry at `i` to `j`."""
    p = s.heap[t, i]
    s.heap[t, j], s.key[t, j], s.page[p].place = p, s.key[t, i], j


@uncounted
def _before(s, t, i, key, tie):
    """Whether the entry at `i` leaves before a key and its tie-break."""
    return s.key[t, i] < key or (s.key[t, i] == key and s.tie[t, i] < tie)


@uncounted
def _settle(s, t, i):
    """Restores the heap after the key at `i` changed: others move over until its place is found."""
    p, tie, key, n, start = s.heap[t, i], s.tie[t, i], s.key[t, i], s.tiers[t].heaped, i
    while i > 0 and not _before(s, t, (i - 1) // 2, key, tie):
        above = (i - 1) // 2
        _move(s, t, above, i)
        s.tie[t, i] = s.tie[t, above]
        i = above
    while i >= start:
        child = 2 * i + 1
        if child + 1 < n and _before(s, t, child + 1, s.key[t, child], s.tie[t, child]):
            child += 1
        if child >= n or not _before(s, t, child, key, tie):
            break
        _move(s, t, child, i)
        s.tie[t, i] = s.tie[t, child]
        i = child
    s.heap[t, i], s.tie[t, i], s.key[t, i], s.page[p].place = p, tie, key, i

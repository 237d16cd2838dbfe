"""Pages that could leave a tier under a rank: a heap of resting keys, and where keys drift a tournament or a
scan.

A heap is evaluated once per touch of a page and gives the lowest key in O(log n). So does a tournament where
it is known when the order of two pages changes next. A scan adds to every key at rest what time has added
since, O(n) per victim. Under both, the page that comes first in `heap` leaves first among equals.
"""

import numpy as np

from kv_cache_rl.core.draws import WEYL
from kv_cache_rl.jit import embedded, uncounted
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
    s.heap[t, i].page, s.page[p].place = p, i
    rekey(s, t, p)


@embedded
def rekey(s, t, p):
    """Gives a page of the heap its present key."""
    page = s.page[p]
    i = page.place
    look(s, t, p)
    entry = s.heap[t, i]
    entry.key = rank(s.settings.rank, s.row)
    if s.settings.order == Order.HEAPED:
        entry.stamp = page.inserted
        _settle(s.heap[t], s.page, s.tiers[t].heaped, i)
        return
    entry.stamp = page.last_access
    if s.settings.returns == 1:
        s.use_class[t, i] = use_class(s, p)
    if s.settings.order == Order.MATCHED:
        tournament.touched(s.match[t], i, i == s.tiers[t].heaped - 1)


@uncounted
def remove(s, t, p):
    """Takes a page from among those that could leave a tier."""
    i, end = s.page[p].place, s.tiers[t].heaped - 1
    s.tiers[t].heaped = end
    s.page[p].place = NONE
    if s.settings.order == Order.MATCHED:
        tournament.touched(s.match[t], end, True)
    if i == end:
        return
    _move(s.heap[t], s.page, end, i)
    if s.settings.order == Order.HEAPED:
        _settle(s.heap[t], s.page, end, i)
        return
    if s.settings.returns == 1:
        s.use_class[t, i] = s.use_class[t, end]
    if s.settings.order == Order.MATCHED:
        tournament.touched(s.match[t], i, i == end - 1)


@embedded
def lowest(s, t):
    """The page whose key is lowest now."""
    if s.settings.order == Order.HEAPED:
        return np.int64(s.heap[t, 0].page)
    if s.settings.order == Order.MATCHED:
        return np.int64(s.heap[t, tournament.lowest(s, t)].page)
    if s.settings.draws == 1:
        return np.int64(s.heap[t, int(_draw(s) * s.tiers[t].heaped)].page)
    return np.int64(s.heap[t, _scanned(s, t)].page)


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
def _move(heap, page, i, j):
    """Copies the entry at `i` to `j`."""
    source, target = heap[i], heap[j]
    target.key, target.page, target.stamp = source.key, source.page, source.stamp
    page[source.page].place = j


@uncounted
def _before(entry, key, stamp):
    """Whether an entry leaves before one with this key and stamp."""
    return entry.key < key or (entry.key == key and entry.stamp < stamp)


@uncounted
def _settle(heap, page, n, i):
    """Restores the heap of `n` entries after the key at `i` changed: others move over until its place is
    found.
    """
    p, stamp, key, start = heap[i].page, heap[i].stamp, heap[i].key, i
    while i > 0 and not _before(heap[(i - 1) // 2], key, stamp):
        _move(heap, page, (i - 1) // 2, i)
        i = (i - 1) // 2
    while i >= start:
        child = 2 * i + 1
        if child + 1 < n and _before(heap[child + 1], heap[child].key, heap[child].stamp):
            child += 1
        if child >= n or not _before(heap[child], key, stamp):
            break
        _move(heap, page, child, i)
        i = child
    heap[i].page, heap[i].stamp, heap[i].key, page[p].place = p, stamp, key, i

"""What no policy of one tier can beat: MIN, which knows the future, with bypass.

The block with the latest next use is evicted first, among equals the deeper one. A block that is
never used again is not kept at all: it bypasses the cache. A parent is used whenever its child is,
so that it is never evicted before the child. So the cache stays closed under prefixes without a
rule for it, and the bound holds for prefix-tree traces. In a page trace this is Belady's MIN for
equal pages.

The blocks that the same request uses next lie on its path in one range. So this too runs on the
pieces of `runs` and not on blocks:

    path of n   0 ........ low[n] ======== high[n] ........
                next used before n         did not stay, or not yet seen

A write uses nothing: it brings its blocks by itself, so that none needs to be kept for it.

Source: Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems
Journal 5(2), 1966.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kv_cache_rl.jit import njit
from kv_cache_rl.sim.hierarchy.curves.runs import Curve, Pieces, check_capacity, pieces
from kv_cache_rl.sim.hierarchy.traces.trace import Trace

PREFIX_CLOSED, EQUAL_PAGES = "prefix-closed MIN with bypass", "Belady's MIN with bypass for equal pages"


def bound_name(trace: Trace) -> str:
    """Which bound `min_hits` is for this trace; "" if it is none, because pages differ in size.

    It bounds hits in a single tier, counted in blocks. With pages of different sizes the best
    choice is NP-hard (Chrobak et al., "Caching is hard", 2012), and keeping the next used ones is
    not the best. Over several tiers hits do not decide the latency.
    """
    if isinstance(trace.page_bytes, np.ndarray) and len(np.unique(trace.page_bytes)) > 1:
        return ""
    return PREFIX_CLOSED if trace.chained else EQUAL_PAGES


def min_hits(trace: Trace, capacity: int, cut: Pieces | None = None) -> int:
    """Block accesses that hit under MIN with room for `capacity` blocks, whatever their bytes."""
    check_capacity(capacity)
    cut = cut or pieces(trace)
    return int(_min(*_futures(cut.first, cut.end, cut.owner, cut.counted), capacity))


def min_curve(trace: Trace, capacities: Sequence[int], cut: Pieces | None = None) -> Curve:
    """Hit rate of MIN at these capacities, in increasing order."""
    cut = cut or pieces(trace)
    ordered = sorted(set(capacities))
    futures = _futures(cut.first, cut.end, cut.owner, cut.counted)
    for capacity in ordered:
        check_capacity(capacity)
    hits = np.array([_min(*futures, capacity) for capacity in ordered], dtype=np.int64)
    return Curve("min", np.array(ordered, dtype=np.int64), hits / trace.accesses, trace.accesses)


@njit
def _futures(first, end, owner, counted):
    """(first [R + 1], low, high, user): request r's path cut by the request that uses it next.

    From the root on; parts that no request uses again are left out. These are the pieces reversed:
    what request n found last touched by q is what q leaves to be used next by n.
    """
    requests = len(first) - 1
    count = np.zeros(requests + 1, np.int64)
    for request in range(requests):
        for piece in range(first[request], first[request + 1]):
            if owner[piece] >= 0 and counted[request]:
                count[owner[piece] + 1] += 1
    begins = np.cumsum(count)
    at = begins[:-1].copy()
    low = np.empty(begins[-1], np.int32)
    high = np.empty(begins[-1], np.int32)
    user = np.empty(begins[-1], np.int32)
    for request in range(requests):
        begin = 0
        for piece in range(first[request], first[request + 1]):
            last = owner[piece]
            if last >= 0 and counted[request]:
                low[at[last]], high[at[last]], user[at[last]] = begin, end[piece], request
                at[last] += 1
            begin = end[piece]
    return begins, low, high, user


@njit
def _min(begins, piece_low, piece_high, user, capacity):
    requests = len(begins) - 1
    low = np.zeros(requests, np.int32)
    high = np.zeros(requests, np.int32)
    levels = _levels(requests)
    marks = np.zeros(levels[-1], np.uint64)  # requests by which resident blocks are next used
    hits = used = 0
    for request in range(requests):
        held = high[request] - low[request]
        if held > 0:
            hits += held
            used -= held
            high[request] = low[request]
            _clear(marks, levels, request)
        for piece in range(begins[request], begins[request + 1]):
            later = user[piece]
            if high[later] == low[later]:
                high[later] = piece_high[piece]
                _mark(marks, levels, later)
            low[later] = piece_low[piece]
            used += piece_high[piece] - piece_low[piece]
        while used > capacity:
            last = _last(marks, levels)
            leave = min(used - capacity, high[last] - low[last])
            used -= leave
            high[last] -= leave
            if high[last] == low[last]:
                _clear(marks, levels, last)
    return hits


@njit
def _levels(size):
    """Where each level of a set of integers below `size` begins.

    A word holds 64 integers, and is a bit of the level above.
    """
    levels = np.zeros(8, np.int64)
    count = 1
    words = (size + 63) >> 6
    levels[1] = words
    while words > 1:
        words = (words + 63) >> 6
        count += 1
        levels[count] = levels[count - 1] + words
    return levels[: count + 1]


@njit
def _mark(marks, levels, number):
    for level in range(len(levels) - 1):
        marks[levels[level] + (number >> 6)] |= np.uint64(1) << np.uint64(number & 63)
        number >>= 6


@njit
def _clear(marks, levels, number):
    for level in range(len(levels) - 1):
        word = levels[level] + (number >> 6)
        marks[word] &= ~(np.uint64(1) << np.uint64(number & 63))
        if marks[word] != np.uint64(0):
            return
        number >>= 6


@njit
def _last(marks, levels):
    """The largest number in the set, which is not empty."""
    number = 0
    for level in range(len(levels) - 2, -1, -1):
        word = marks[levels[level] + number]
        bit = 0
        for step in (32, 16, 8, 4, 2, 1):
            if word >> np.uint64(bit + step) != np.uint64(0):
                bit += step
        number = (number << 6) | bit
    return number

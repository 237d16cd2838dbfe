"""Exact LRU on runs of blocks: replay at any capacity, and the whole miss-ratio curve in one pass.

All blocks of a request are touched from the last to the first, so that its root ends most recent.
Two paths share a prefix and nothing else. So a later request takes a prefix away from the blocks
that request q touched last, and eviction takes from the least recent, deepest end. The blocks that
q touched last are always one range of positions on its path:

    path of q   0 ........ low[q] ======== high[q] ........ length
                taken by later requests    evicted

`pieces` cuts every path, once per trace, into ranges last touched by the same earlier request: 3
pieces where there are 1,848 blocks. Along a path pieces grow older, so that the resident part is a
prefix and hits are contiguous without a rule for it. The rank of a position among all blocks by
recency is (blocks held by requests after q) + (position - low[q]) + 1. A block hits at all
capacities from its rank on, which gives the curve. A page trace is the case of one block a request.

What decoding wrote is a row of its own behind its request (`touches`), whose hits do not count.

Source: Mattson et al., "Evaluation techniques for storage hierarchies", IBM Systems Journal 9(2),
1970.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kv_cache_rl.jit import njit
from kv_cache_rl.sim.hierarchy.curves.touches import Touches, touches
from kv_cache_rl.sim.hierarchy.traces.segments import check_room, segments
from kv_cache_rl.sim.hierarchy.traces.trace import Trace

CURVE_BYTES = 40  # of a whole curve, per block
UNTOUCHED = -1  # the owner of blocks that no row has touched


@dataclass(frozen=True, slots=True)
class Pieces:
    """Every path, cut by the row that touched it last; without writes a row is a request.

    Piece p of row r covers the positions from the end of piece p - 1 (or 0).
    """

    first: np.ndarray  # int64 [N + 1], row r owns pieces first[r]:first[r + 1]
    end: np.ndarray  # int32 [P], position at which the piece ends
    owner: np.ndarray  # int32 [P], row that touched it last, or UNTOUCHED
    lengths: np.ndarray  # int64 [N], blocks of the row
    request: np.ndarray  # int64 [N]
    counted: np.ndarray  # bool [N], whether its hits count


@dataclass(frozen=True, slots=True)
class Curve:
    """Hits of a policy at every capacity."""

    policy: str
    capacities: np.ndarray  # int64 [n], in blocks, increasing
    hit_rate: np.ndarray  # float64 [n], block accesses that hit / block accesses
    accesses: int
    error: float = 0.0  # expected mean absolute error of hit_rate, 0 if it is exact

    def at(self, capacity: int) -> float:
        """Hit rate at a capacity; between two of the curve's, that of the lower one."""
        index = int(np.searchsorted(self.capacities, capacity, side="right")) - 1
        return float(self.hit_rate[index]) if index >= 0 else 0.0


def pieces(trace: Trace) -> Pieces:
    """The paths' pieces, from one sequential pass over the accesses that every replay then spares."""
    return pieces_of(touches(trace))


def pieces_of(rows: Touches) -> Pieces:
    """The pieces of these rows."""
    first, end, owner = _pieces(rows.first_run, *segments(rows.run_start, rows.run_length, rows.blocks))
    return Pieces(first, end, owner, rows.lengths, rows.request, rows.counted)


def lru(trace: Trace, capacity: int, cut: Pieces | None = None, end_hint: bool = False) -> int:
    """Block accesses that hit under LRU with room for `capacity` blocks.

    `end_hint`: a sequence's blocks are freed when its last request is done. Give `cut` to replay at
    many capacities.
    """
    check_capacity(capacity)
    if not (trace.chained or end_hint or trace.warm_up):
        return lru_hits(trace.run_start, trace.blocks, capacity)
    cut = cut or pieces(trace)
    last = np.append(cut.request[1:] != cut.request[:-1], True)  # nothing follows of the same request
    ends = trace.ends[cut.request] & last if end_hint else np.zeros(len(last), bool)
    rows = cut.lengths, cut.counted, trace.sequence[cut.request]
    return int(_lru(cut.first, cut.end, cut.owner, *rows, ends, capacity))


def lru_hits(ids: np.ndarray, pages: int, capacity: int) -> int:
    """Accesses of `ids` (dense, 0 ... pages - 1) that hit in an LRU cache of `capacity` equal pages."""
    check_capacity(capacity)
    ids = np.ascontiguousarray(ids)
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < pages:
        raise ValueError(
            f"ids run from {ids.min()} to {ids.max()}, pages is {pages}; number them densely from 0"
        )
    last = np.full(pages, -1, np.int32 if len(ids) < 2**31 else np.int64)
    return int(_lru_pages(ids, last, capacity))


def lru_curve(trace: Trace, cut: Pieces | None = None) -> Curve:
    """The exact hit rate of LRU at every capacity from 0 to `trace.blocks`, in one pass."""
    ranks = stack_distances(trace, cut)
    hits = np.cumsum(ranks)
    return Curve("lru", np.arange(trace.blocks + 1), hits / trace.accesses, trace.accesses)


def stack_distances(trace: Trace, cut: Pieces | None = None) -> np.ndarray:
    """Block accesses that found their block at each rank by recency, int64 [blocks + 1].

    The newest block has rank 1.
    """
    return ranks_of(cut or pieces(trace), trace.blocks)


def ranks_of(cut: Pieces, blocks: int) -> np.ndarray:
    """Block accesses of the rows that count by the rank of what they found, int64 [blocks + 1]."""
    check_room("the trace", blocks, CURVE_BYTES * blocks, "a curve over all capacities")
    return _ranks(cut.first, cut.end, cut.owner, cut.lengths, cut.counted, blocks)


def check_capacity(capacity: int) -> None:
    """Raises ValueError for a capacity below one block."""
    if capacity < 1:
        raise ValueError(f"capacity is {capacity} blocks; give at least 1")


@njit
def _pieces(first_run, edges, run_start, run_length):
    requests = len(first_run) - 1
    owner_of = np.full(len(edges) - 1, -1, np.int32)
    first = np.zeros(requests + 1, np.int64)
    end = np.empty(len(run_start) + 1024, np.int32)
    owner = np.empty(len(run_start) + 1024, np.int32)
    count = 0
    for request in range(requests):
        position = 0
        before = np.int32(-2)
        for run in range(first_run[request], first_run[request + 1]):
            start, stop = run_start[run], run_start[run] + run_length[run]
            for segment in range(start, stop):
                last = owner_of[segment]
                if last != before:
                    if before != -2:
                        end[count - 1] = position + edges[segment] - edges[start]
                    if count == len(end):
                        end = np.concatenate((end, np.empty(count, np.int32)))
                        owner = np.concatenate((owner, np.empty(count, np.int32)))
                    owner[count] = last
                    count += 1
                    before = last
            owner_of[start:stop] = request
            position += edges[stop] - edges[start]
        if before != -2:
            end[count - 1] = position
        first[request + 1] = count
    return first, end[:count].copy(), owner[:count].copy()


@njit
def _lru(first, end, owner, lengths, counted, sequence, ends, capacity):
    requests = len(lengths)
    low = np.zeros(requests, np.int64)
    high = lengths.copy()
    newest = np.full(requests, -1, np.int64)  # of a sequence (dense, so fewer than requests)
    previous = np.full(requests, -1, np.int64)  # the request before in the same sequence
    hits = used = oldest = 0
    for request in range(requests):
        begin = 0
        resident = 0
        for piece in range(first[request], first[request + 1]):
            last = owner[piece]
            if last < 0:
                break
            resident += max(0, min(end[piece], high[last]) - begin)
            low[last] = end[piece]
            high[last] = max(high[last], low[last])
            begin = end[piece]
        if counted[request]:
            hits += resident
        used += lengths[request] - resident
        line = sequence[request]
        previous[request], newest[line] = newest[line], request
        if ends[request]:
            last = request
            while last >= oldest:
                used -= high[last] - low[last]
                high[last] = low[last]
                last = previous[last]
        while used > capacity:
            leave = min(used - capacity, high[oldest] - low[oldest])
            high[oldest] -= leave
            used -= leave
            if used > capacity:
                oldest += 1
    return hits


@njit
def _lru_pages(ids, last, capacity):
    """LRU without lists: a page is resident if its last access is not older than `oldest`.

    Stale entries are stepped over.
    """
    hits = used = oldest = 0
    for now in range(len(ids)):
        page = ids[now]
        if last[page] >= oldest:
            hits += 1
        elif used < capacity:
            used += 1
        else:
            while last[ids[oldest]] != oldest:
                oldest += 1
            oldest += 1
        last[page] = now
    return hits


@njit
def _ranks(first, end, owner, lengths, counted, blocks):
    """A Fenwick tree over the rows that still hold blocks, renumbered when its slots are used up."""
    requests = len(lengths)
    slots = 1024
    tree = np.zeros(slots + 1, np.int64)
    request_in = np.zeros(slots + 1, np.int64)
    slot_of = np.zeros(requests, np.int32)
    low = np.zeros(requests, np.int64)
    change = np.zeros(blocks + 2, np.int64)  # the count at a rank less that at the rank before
    total = filled = 0
    for request in range(requests):
        if filled == slots:
            tree, request_in, filled = _renumbered(request_in, filled, slot_of, low, lengths)
            slots = len(tree) - 1
        begin = 0
        for piece in range(first[request], first[request + 1]):
            last = owner[piece]
            if last < 0:
                break
            taken = end[piece] - begin
            newer = total
            slot = slot_of[last]
            while slot > 0:
                newer -= tree[slot]
                slot -= slot & -slot
            if counted[request]:
                change[newer + 1] += 1
                change[newer + taken + 1] -= 1
            low[last] = end[piece]
            begin = end[piece]
        # All ranks are those at the request's arrival; only then do its blocks move to the front.
        begin = 0
        for piece in range(first[request], first[request + 1]):
            last = owner[piece]
            if last < 0:
                break
            slot = slot_of[last]
            while slot <= slots:
                tree[slot] -= end[piece] - begin
                slot += slot & -slot
            total -= end[piece] - begin
            begin = end[piece]
        filled += 1
        slot_of[request], request_in[filled] = filled, request
        total += lengths[request]
        slot = filled
        while slot <= slots:
            tree[slot] += lengths[request]
            slot += slot & -slot
    return np.cumsum(change)[: blocks + 1]


@njit
def _renumbered(request_in, filled, slot_of, low, lengths):
    """(tree, request_in, filled) with the requests that hold nothing left out and at least half of the slots
    free.
    """
    live = 0
    for slot in range(1, filled + 1):
        request = request_in[slot]
        if low[request] < lengths[request]:
            live += 1
    slots = max(1024, 2 * live)
    tree = np.zeros(slots + 1, np.int64)
    kept = np.zeros(slots + 1, np.int64)
    live = 0
    for slot in range(1, filled + 1):
        request = request_in[slot]
        if low[request] < lengths[request]:
            live += 1
            slot_of[request], kept[live] = live, request
            tree[live] = lengths[request] - low[request]
    for slot in range(1, slots + 1):
        above = slot + (slot & -slot)
        if above <= slots:
            tree[above] += tree[slot]
    return tree, kept, live

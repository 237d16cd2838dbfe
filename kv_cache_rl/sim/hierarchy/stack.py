"""LRU over tiers of equal pages: one stack, cut where the tiers are full.

The same results as `dynamics`, several times sooner.

newest  p p p p | p p p p p p | p p p ...  oldest     a page asked for goes to the front; over every cut
        tier 0    tier 1        tier 2                between it and its old place one page moves down
"""

import numpy as np

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.hierarchy.dynamics import lru_seconds
from kv_cache_rl.sim.hierarchy.queues import QUEUE_IDS
from kv_cache_rl.sim.hierarchy.spec import Scenario
from kv_cache_rl.sim.hierarchy.state import DEMAND, DOWN, NONE, UP, Order, State


def applies(state: State, scenario: Scenario) -> bool:
    """Whether a replay is plain LRU over equal pages, each step of which waits for its transfers."""
    sizes = state.page["full_bytes"]
    return bool(
        not (scenario.overlap or scenario.recompute)
        and (scenario.squeeze, scenario.promotion, scenario.reserve) == ("fp16", "top", "none")
        and state.settings.queue == QUEUE_IDS["lru"]
        and not state.settings.chained
        and (sizes == sizes[0]).all()
    )


def advance_stack(state: State, blocks: np.ndarray) -> None:
    """Replays all accesses.

    `state` ends with the counts, latencies and tiers of pages that `dynamics.advance` would leave, but with
    empty lists.
    """
    tiers, pages, size = len(state.tiers), len(state.page), int(state.page[0].full_bytes)
    seconds = _seconds(state, tiers)
    down, counts, peaks = np.zeros(tiers, np.int64), np.zeros(tiers, np.int64), np.zeros(tiers, np.int64)
    older, newer = np.full(pages + 1, pages, np.int32), np.full(pages + 1, pages, np.int32)
    tier = np.full(pages, NONE, np.int8)
    room = state.tiers["capacity"] // size
    oldest = np.full(tiers, NONE, np.int64)
    found = state.served, state.latency, state.hits
    _walk(blocks, room, seconds, older, newer, tier, counts, peaks, down, oldest, *found)
    state.page["tier"] = tier
    state.tiers["used"], state.tiers["peak"] = counts * size, peaks * size
    for link in range(1, tiers):
        state.tiers["crossed"][link, UP, DEMAND] = int(state.served[link:tiers].sum()) * size
        state.tiers["crossed"][link, DOWN, DEMAND] = int(down[link - 1]) * size
    state.settings.order = Order.UNKEPT
    state.counters.evictions, state.counters.drops = down.sum(), down[-1]
    state.counters.clock = state.counters.requests = len(blocks)
    state.sums.seconds = state.latency.sum() + len(blocks) * state.settings.compute_s


def _seconds(state: State, tiers: int) -> np.ndarray:
    """Seconds of an access by the tier it was found in (last row: none) and by how many pages moved down."""
    table = np.zeros((tiers + 1, tiers + 1))
    for source in range(tiers + 1):
        for moved in range(tiers + 1):
            scratch = state._replace(tiers=state.tiers.copy(), sums=state.sums.copy())
            table[source, moved] = lru_seconds(scratch, 0, source if source < tiers else NONE, moved)
    return table


@uncounted
def _walk(blocks, room, seconds, older, newer, tier, counts, peaks, down, oldest, served, latency, hits):
    tiers, end = len(room), len(tier)
    for r in range(len(blocks)):
        p = np.int64(blocks[r])
        t = np.int64(tier[p])
        served[t if t >= 0 else tiers] += 1
        if t >= 0:
            if oldest[t] == p:
                oldest[t] = _newer_in(newer, tier, end, p, t)
            older[newer[p]], newer[older[p]] = older[p], newer[p]
            counts[t] -= 1
        moved = 0
        while moved < tiers and counts[moved] == room[moved]:
            moved += 1
        for k in range(moved):
            q = oldest[k]
            down[k] += 1
            oldest[k] = _newer_in(newer, tier, end, q, k)
            if k + 1 < tiers:
                tier[q] = k + 1
                if oldest[k + 1] == NONE:
                    oldest[k + 1] = q
            else:
                tier[q] = NONE
                older[newer[q]], newer[older[q]] = older[q], newer[q]
        if moved < tiers:
            counts[moved] += 1
            peaks[moved] = max(peaks[moved], counts[moved])
        newest = older[end]
        older[end], newer[p], older[p], newer[newest] = p, end, newest, p
        tier[p] = 0
        if oldest[0] == NONE:
            oldest[0] = p
        hits[r] = t == 0
        latency[r] = seconds[t if t >= 0 else tiers, moved]


@uncounted
def _newer_in(newer, tier, end, p, t):
    """The next newer page than `p` if it lies in tier `t`, else NONE."""
    q = np.int64(newer[p])
    return q if q != end and tier[q] == t else NONE

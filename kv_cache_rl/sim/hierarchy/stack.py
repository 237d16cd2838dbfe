"""LRU over tiers of equal pages: one stack, cut where the tiers are full. The same results as `dynamics`,
several times sooner.

newest  p p p p | p p p p p p | p p p ...  oldest       a page asked for goes to the front; over every cut between
        tier 0    tier 1        tier 2                  it and its old place one page moves down
"""

import numpy as np

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.hierarchy.dynamics import lru_seconds
from kv_cache_rl.sim.hierarchy.spec import Scenario
from kv_cache_rl.sim.hierarchy.state import (
    CAPACITY,
    CHAINED,
    CLOCK,
    CROSSED,
    DONE,
    DROPS,
    EVICTIONS,
    KIND,
    NONE,
    PEAK,
    POLICY,
    POLICY_IDS,
    SECONDS,
    SIZE,
    TIER,
    UNKEPT,
    USED,
    State,
)


def applies(state: State, scenario: Scenario) -> bool:
    """Whether a replay before its first request is plain LRU over equal pages, whose every step waits for its
    transfers.
    """
    plain = not (
        scenario.overlap or scenario.recompute or scenario.squeeze != "fp16" or scenario.promotion != "top"
    )
    plain = plain and scenario.reserve == "none"
    sizes = state.page[:, SIZE]
    return bool(
        plain
        and state.settings[POLICY] == POLICY_IDS["lru"]
        and not state.settings[CHAINED]
        and (sizes == sizes[0]).all()
    )


def advance_stack(state: State, blocks: np.ndarray) -> None:
    """Replays all accesses; `state` ends with the counts, latencies and tiers of pages that
    `dynamics.advance` would leave, without the order of its lists."""
    tiers, pages, size = len(state.tiers), len(state.page), int(state.page[0, SIZE])
    seconds = _seconds(state, tiers)
    down, counts, peaks = np.zeros(tiers, np.int64), np.zeros(tiers, np.int64), np.zeros(tiers, np.int64)
    older, newer = np.full(pages + 1, pages, np.int32), np.full(pages + 1, pages, np.int32)
    tier = np.full(pages, NONE, np.int8)
    room = state.tiers[:, CAPACITY] // size
    oldest = np.full(tiers, NONE, np.int64)
    _walk(
        blocks,
        room,
        seconds,
        older,
        newer,
        tier,
        counts,
        peaks,
        down,
        oldest,
        state.served,
        state.latency,
        state.hits,
    )
    state.page[:, TIER] = tier
    state.tiers[:, USED], state.tiers[:, PEAK] = counts * size, peaks * size
    for link in range(1, tiers):
        state.tiers[link, CROSSED] = int(state.served[link:tiers].sum()) * size
        state.tiers[link, CROSSED + 2] = int(down[link - 1]) * size
    state.settings[KIND] = UNKEPT
    state.counters[EVICTIONS], state.counters[DROPS] = down.sum(), down[-1]
    state.counters[CLOCK] = state.counters[DONE] = len(blocks)
    state.clocks[SECONDS] = state.latency.sum() + len(blocks) * state.reals[2]


def _seconds(state: State, tiers: int) -> np.ndarray:
    """Seconds of an access by the tier it was found in (the last row: none) and by how many pages moved down."""
    table = np.zeros((tiers + 1, tiers + 1))
    for source in range(tiers + 1):
        for moved in range(tiers + 1):
            scratch = State(*(column.copy() if column.size < 4096 else column for column in state))
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

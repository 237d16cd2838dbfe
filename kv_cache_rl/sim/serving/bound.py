"""The clairvoyant fluid bound: no scheduler completes more work than this before the episode ends."""

import heapq

import numpy as np

from kv_cache_rl.sim.serving.state import (
    ARRIVAL,
    BLOCK_TOKENS,
    C1,
    CLOCK,
    FIXED,
    HISTORY,
    OUTPUT,
    PER_KV,
    PROMPT,
    Columns,
)


def engine_microseconds(columns: Columns) -> np.ndarray:
    """Least share of the engine's time that each request takes, float64 ``[R]``.

    Every iteration costs `fixed`, and the tokens it decodes over fit into memory: completing a request of
    prompt s and output o takes its footprint sum over t = 1..o of (s + t) out of M per iteration, and the
    same footprint is read once, token by token. Its prompt is computed at least as far as no history covers
    it (rates rounded down as the engine rounds them)."""
    load, settings = columns.traffic.astype(np.float64), columns.settings
    prompt, output = load[:, PROMPT], load[:, OUTPUT]
    footprint = output * prompt + output * (output + 1) / 2
    memory = columns.book[0, 0] * settings[BLOCK_TOKENS]
    fresh = prompt - load[:, HISTORY]
    return footprint * (settings[FIXED] / memory + settings[PER_KV] / 1e6) + fresh * (settings[C1] // 1000)


def fluid_bound(columns: Columns) -> float:
    """Most tokens (prompt + output) of requests that could be completed in time.

    A relaxation: requests are divisible, the engine switches between them for nothing, all history is found.
    Whatever arrives after t has to fit between t and the end, for every t; these sets are nested, so taking
    requests by tokens per second of engine time, best first, is optimal. Going backwards in time, the worst
    are dropped whenever the rest does not fit."""
    load, end = columns.traffic, int(columns.book[CLOCK, 1])
    cost = engine_microseconds(columns)
    work = (load[:, PROMPT] + load[:, OUTPUT]).astype(np.float64)
    alone = load[:, OUTPUT] * columns.settings[FIXED]
    kept: list[tuple[float, float, float]] = []
    taken = total = 0.0
    for row in range(len(load) - 1, -1, -1):
        room = end - int(load[row, ARRIVAL])
        if alone[row] <= room:
            heapq.heappush(kept, (work[row] / cost[row], cost[row], work[row]))
            taken += cost[row]
            total += work[row]
        while taken > room:
            density, least_cost, least_work = heapq.heappop(kept)
            over = min(taken - room, least_cost)
            taken -= over
            total -= density * over
            if over < least_cost:
                heapq.heappush(kept, (density, least_cost - over, least_work - density * over))
    return total

"""The clairvoyant fluid bound: no scheduler completes more work than this before the episode ends."""

import heapq

import numpy as np

from kv_cache_rl.core import pool
from kv_cache_rl.sim.serving.columns import GPU_POOL, Columns


def engine_microseconds(c: Columns) -> np.ndarray:
    """Least share of the engine's time that each request takes, float64 ``[R]``.

    Every iteration costs `fixed_us`, and the tokens it decodes over fit into memory: completing a request
    of prompt s and output o takes its footprint sum over t = 1..o of (s + t) out of M per iteration, and
    the same footprint is read once, token by token. Its prompt is computed at least as far as no history
    covers it (rates rounded down as the engine rounds them).
    """
    settings = c.settings
    prompt, output = c.requests["prompt"].astype(np.float64), c.requests["output"].astype(np.float64)
    footprint = output * prompt + output * (output + 1) / 2
    memory = c.book["pools"][GPU_POOL, pool.CAPACITY] * settings["block_tokens"]
    fresh = prompt - c.requests["history"]
    per_footprint = settings["fixed_us"] / memory + settings["kv_read_ps"] / 1e6
    return footprint * per_footprint + fresh * (settings["prefill_ns"] // 1000)


def fluid_bound(c: Columns) -> float:
    """Most tokens (prompt + output) of requests that could be completed in time.

    A relaxation: requests are divisible, the engine switches between them for nothing, all history is
    found. What arrives after t has to fit between t and the end, for every t; these sets are nested, so
    taking requests by tokens per second of engine time, best first, is optimal. Going backwards in time,
    the worst are dropped whenever the rest does not fit.
    """
    arrival, end = c.requests["arrival"], int(c.book["end_us"])
    cost = engine_microseconds(c)
    work = (c.requests["prompt"] + c.requests["output"]).astype(np.float64)
    alone = c.requests["output"] * c.settings["fixed_us"]
    kept: list[tuple[float, float, float]] = []
    taken = total = 0.0
    for row in range(len(arrival) - 1, -1, -1):
        room = end - int(arrival[row])
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

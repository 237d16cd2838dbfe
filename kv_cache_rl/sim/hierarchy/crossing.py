"""Seconds that bytes take over a link on which other bytes are under way.

A link has two directions. Flows of one direction share its rate equally (processor sharing); while both
directions carry something each runs at the link's rate for both ways. `link` is a record of ``State.tiers``.
"""

import numpy as np

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.hierarchy.state import DOWN, UP


@uncounted
def drain(link, seconds):
    """Lets the bytes under way proceed for some seconds, or to the end; returns the seconds used."""
    spent, left = 0.0, link.under_way
    while seconds > 0.0 and (left[UP] > 0.0 or left[DOWN] > 0.0):
        rate = link.both_ways if left[UP] > 0.0 and left[DOWN] > 0.0 else link.one_way
        first = np.inf
        for way in range(2):
            if left[way] > 0.0:
                first = min(first, left[way])
        dt = first / rate
        if dt > seconds:
            for way in range(2):
                left[way] = max(left[way] - rate * seconds, 0.0)
            return spent + seconds
        for way in range(2):
            left[way] = 0.0 if left[way] <= first else left[way] - first
        spent += dt
        seconds -= dt
    return spent


@uncounted
def cross(demand, link):
    """Seconds until `demand` bytes have come up the link; the bytes under way proceed meanwhile."""
    spent, left = 0.0, link.under_way
    while demand > 0.0:
        rate = link.both_ways if left[DOWN] > 0.0 else link.one_way
        shared = rate / 2.0 if left[UP] > 0.0 else rate
        dt = demand / shared
        if left[UP] > 0.0:
            dt = min(dt, left[UP] / shared)
        if left[DOWN] > 0.0:
            dt = min(dt, left[DOWN] / rate)
        demand = 0.0 if demand <= shared * dt else demand - shared * dt
        if left[UP] > 0.0:
            left[UP] = 0.0 if left[UP] <= shared * dt else left[UP] - shared * dt
        if left[DOWN] > 0.0:
            left[DOWN] = 0.0 if left[DOWN] <= rate * dt else left[DOWN] - rate * dt
        spent += dt
    return spent

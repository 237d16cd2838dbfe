"""Seconds that bytes take over a link on which other bytes are under way.

A link has two directions. Flows of one direction share its rate equally (processor sharing); while both
directions carry something each runs at the link's rate for both ways. `link` is a row of `State.rates`."""

import numpy as np

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.hierarchy.state import (
    BOTH_WAYS,
    DOWN,
    ONE_WAY,
    UP,
)


@uncounted
def drain(link, seconds):
    """Lets the bytes under way proceed for some seconds, or to the end; returns the seconds used."""
    spent = 0.0
    while seconds > 0.0 and (link[UP] > 0.0 or link[DOWN] > 0.0):
        rate = link[BOTH_WAYS] if link[UP] > 0.0 and link[DOWN] > 0.0 else link[ONE_WAY]
        first = np.inf
        for way in range(2):
            if link[way] > 0.0:
                first = min(first, link[way])
        dt = first / rate
        if dt > seconds:
            for way in range(2):
                link[way] = max(link[way] - rate * seconds, 0.0)
            return spent + seconds
        for way in range(2):
            link[way] = 0.0 if link[way] <= first else link[way] - first
        spent += dt
        seconds -= dt
    return spent


@uncounted
def cross(demand, link):
    """Seconds until `demand` bytes have come up the link beside the bytes under way, which proceed meanwhile."""
    spent = 0.0
    while demand > 0.0:
        rate = link[BOTH_WAYS] if link[DOWN] > 0.0 else link[ONE_WAY]
        shared = rate / 2.0 if link[UP] > 0.0 else rate
        dt = demand / shared
        if link[UP] > 0.0:
            dt = min(dt, link[UP] / shared)
        if link[DOWN] > 0.0:
            dt = min(dt, link[DOWN] / rate)
        demand = 0.0 if demand <= shared * dt else demand - shared * dt
        if link[UP] > 0.0:
            link[UP] = 0.0 if link[UP] <= shared * dt else link[UP] - shared * dt
        if link[DOWN] > 0.0:
            link[DOWN] = 0.0 if link[DOWN] <= rate * dt else link[DOWN] - rate * dt
        spent += dt
    return spent

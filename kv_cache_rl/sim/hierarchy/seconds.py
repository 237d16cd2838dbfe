"""Seconds of a request: reading, computing, waiting for the first byte, and for bytes over links that others
use too.
"""

import numpy as np

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.hierarchy.crossing import cross, drain
from kv_cache_rl.sim.hierarchy.sizes import bytes_of
from kv_cache_rl.sim.hierarchy.state import (
    ASKED,
    COMPUTE,
    DECODE,
    DIVERGENCE,
    DOWN,
    DRAINED,
    ENCODE,
    KL,
    LATENCY,
    LEVEL,
    LOSS,
    ONE_WAY,
    OVERLAP,
    QUIET,
    READ,
    SECONDS,
    SIZE,
    UP,
    WRITE,
)

_FOREVER = 1e300


@uncounted
def compute_seconds(s, p, depth):
    """Seconds to compute a page and write its bytes where the GPU computes, at the precision it is stored in
    at first.
    """
    encode = max(s.table[ENCODE], 0.0)
    compute = s.table[COMPUTE + depth + 1] - s.table[COMPUTE + depth]
    return compute + s.page[p, SIZE] / s.rates[0, ONE_WAY] + s.page[p, SIZE] * encode


@uncounted
def first_byte_seconds(s, t):
    """Seconds until the first byte of a page of a lower tier has come up to the fastest."""
    wait = s.rates[t, READ] + s.rates[0, WRITE]
    for link in range(1, t + 1):
        wait += s.rates[link, LATENCY]
    return wait


@uncounted
def faster_to_compute(s, p, t, depth):
    """Whether a page of a lower tier is computed anew: where that takes less time than loading it over links
    at rest.
    """
    slowest = np.inf
    for link in range(1, t + 1):
        slowest = min(slowest, s.rates[link, ONE_WAY])
    return (
        s.rates[0, WRITE] + compute_seconds(s, p, depth) < first_byte_seconds(s, t) + bytes_of(s, p) / slowest
    )


@uncounted
def read_seconds(s, p):
    """Seconds to read a page where the GPU computes, and to restore a compressed one, which may cost answers."""
    level = s.page[p, LEVEL]
    s.clocks[LOSS] += s.table[level]
    s.clocks[KL] += s.table[DIVERGENCE + level]
    return s.rates[0, READ] + bytes_of(s, p) / s.rates[0, ONE_WAY] + s.page[p, SIZE] * s.table[DECODE + level]


@uncounted
def catch_up(s):
    """Lets what is under way proceed to the present."""
    elapsed = s.clocks[SECONDS] - s.clocks[DRAINED]
    for link in range(1, len(s.tiers)):
        drain(s.rates[link], elapsed)
    s.clocks[DRAINED] = s.clocks[SECONDS]


@uncounted
def stall_seconds(s):
    """Seconds until the bytes asked for are here; where nothing overlaps, until every link is quiet."""
    longest = 0.0
    for link in range(1, len(s.tiers)):
        longest = max(longest, _link_seconds(s, link))
    for link in range(1, len(s.tiers)):
        if s.rates[link, UP] > 0.0 or s.rates[link, DOWN] > 0.0:
            drain(s.rates[link], longest - s.rates[link, QUIET])
        s.tiers[link, ASKED] = 0
    s.clocks[DRAINED] += longest
    return longest


@uncounted
def _link_seconds(s, link):
    s.rates[link, QUIET] = cross(np.float64(s.tiers[link, ASKED]), s.rates[link])
    if s.settings[OVERLAP] == 0:
        s.rates[link, QUIET] += drain(s.rates[link], _FOREVER)
    return s.rates[link, QUIET]

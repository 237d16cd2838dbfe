"""Seconds of a request: reading, computing, the first byte, and bytes over links that others use too."""

import numpy as np

from kv_cache_rl.jit import embedded, uncounted
from kv_cache_rl.sim.hierarchy.crossing import cross, drain
from kv_cache_rl.sim.hierarchy.sizes import bytes_of
from kv_cache_rl.sim.hierarchy.state import DOWN, UP

_FOREVER = 1e300


@embedded
def compute_seconds(s, p, depth):
    """Seconds to compute a page and write its bytes where the GPU computes, in the footprint's precision."""
    size, encode = s.page[p].full_bytes, max(s.rungs[0].encode, 0.0)
    compute = s.compute_s[depth + 1] - s.compute_s[depth]
    return compute + size / s.tiers[0].one_way + size * encode


@uncounted
def first_byte_seconds(s, t):
    """Seconds until the first byte of a page of a lower tier has come up to the fastest."""
    wait = s.tiers[t].read + s.tiers[0].write
    for link in range(1, t + 1):
        wait += s.tiers[link].latency
    return wait


@uncounted
def faster_to_compute(s, p, t, depth):
    """Whether computing a page of a lower tier anew takes less time than loading it over links at rest."""
    slowest = np.inf
    for link in range(1, t + 1):
        slowest = min(slowest, s.tiers[link].one_way)
    loading = first_byte_seconds(s, t) + bytes_of(s, p) / slowest
    return s.tiers[0].write + compute_seconds(s, p, depth) < loading


@embedded
def read_seconds(s, p):
    """Seconds to read a page where the GPU computes and to restore it if compressed; adds what that loses."""
    page = s.page[p]
    rung = s.rungs[page.level]
    s.sums.loss += rung.loss
    s.sums.kl += rung.kl
    return s.tiers[0].read + bytes_of(s, p) / s.tiers[0].one_way + page.full_bytes * rung.decode


@uncounted
def catch_up(s):
    """Lets what is under way proceed to the present."""
    elapsed = s.sums.seconds - s.sums.drained
    for link in range(1, len(s.tiers)):
        drain(s.tiers[link], elapsed)
    s.sums.drained = s.sums.seconds


@uncounted
def stall_seconds(s):
    """Seconds until the bytes asked for are here; where nothing overlaps, until every link is quiet."""
    longest = 0.0
    for link in range(1, len(s.tiers)):
        longest = max(longest, _link_seconds(s, link))
    for link in range(1, len(s.tiers)):
        tier = s.tiers[link]
        if tier.under_way[UP] > 0.0 or tier.under_way[DOWN] > 0.0:
            drain(tier, longest - tier.quiet)
        tier.asked = 0
    s.sums.drained += longest
    return longest


@uncounted
def _link_seconds(s, link):
    tier = s.tiers[link]
    tier.quiet = cross(np.float64(tier.asked), tier)
    if s.settings.overlap == 0:
        tier.quiet += drain(tier, _FOREVER)
    return tier.quiet

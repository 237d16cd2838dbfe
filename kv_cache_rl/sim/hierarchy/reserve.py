"""Room made in the fastest tier ahead of demand: after each request pages are evicted until it is free.

    fixed      a share of the tier: 20 %, 10 %, 5 % (usage thresholds 0.80, 0.90, 0.95)
    stability  what requests in service bring up, by Little's law with its margin, estimated from the requests
               so far: ceil(lambda E[S] E[B] margin); a request is in service until its compute is over

The policy chooses the pages, and the scenario (`squeeze`) whether they are compressed first. Where transfers
overlap compute, what moves then crosses the links meanwhile instead of standing between a miss and its bytes;
else it is waited for.
"""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.hierarchy.moves import make_room
from kv_cache_rl.sim.hierarchy.seconds import stall_seconds
from kv_cache_rl.sim.hierarchy.state import DEMAND, STABILITY, TOP
from kv_cache_rl.theory.flow import arrive, blocks_to_keep_free, complete


@uncounted
def keep_free(s, seconds):
    """Frees the reserve of the fastest tier after a request that took so many seconds.

    Returns the seconds that this is waited for.
    """
    wanted, top = s.settings.reserved, s.tiers[TOP]
    if wanted == STABILITY:
        now, service_s = s.sums.seconds, seconds + s.settings.compute_s
        arrive(s.flow, now)
        complete(s.flow, now + service_s, service_s, s.sums.brought)
        wanted = blocks_to_keep_free(s.flow, now + service_s, top.capacity, 0)
    s.sums.brought = 0.0
    top.peak = max(top.peak, top.used)
    make_room(s, TOP, wanted, DEMAND)
    return stall_seconds(s) if s.settings.overlap == 0 else 0.0

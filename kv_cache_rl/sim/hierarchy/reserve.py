"""Room made in the fastest tier ahead of demand: after each request, pages give way until a reserve is free.

    fixed      a share of the tier: 20 %, 10 %, 5 % (usage thresholds 0.80, 0.90, 0.95)
    stability  what requests in service bring up, by Little's law with its margin: ceil(lambda E[S] E[B] margin), from the
               requests so far; a request is in service until its compute is over

Who gives way is the policy's business, and whether it is compressed first the scenario's (`squeeze`). Where
transfers overlap compute, what moves then crosses the links meanwhile, instead of standing between a miss and
its bytes; else it is waited for."""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.hierarchy.moves import make_room
from kv_cache_rl.sim.hierarchy.seconds import stall_seconds
from kv_cache_rl.sim.hierarchy.state import (
    BROUGHT,
    CAPACITY,
    DEMAND,
    FLOW,
    OVERLAP,
    PEAK,
    RESERVED,
    SECONDS,
    STABILITY,
    TOP,
    USED,
)
from kv_cache_rl.theory.flow import arrive, blocks_to_keep_free, complete


@uncounted
def keep_free(s, seconds):
    """Makes the reserve of the fastest tier free behind a request of so many seconds; returns those it is
    waited for.
    """
    wanted = s.settings[RESERVED]
    if wanted == STABILITY:
        flow, service_s = s.reals[FLOW:], seconds + s.reals[2]
        arrive(flow, s.clocks[SECONDS])
        complete(flow, s.clocks[SECONDS] + service_s, service_s, s.reals[BROUGHT])
        wanted = blocks_to_keep_free(flow, s.clocks[SECONDS] + service_s, s.tiers[TOP, CAPACITY], 0)
    s.reals[BROUGHT] = 0.0
    s.tiers[TOP, PEAK] = max(s.tiers[TOP, PEAK], s.tiers[TOP, USED])
    make_room(s, TOP, wanted, DEMAND)
    return stall_seconds(s) if s.settings[OVERLAP] == 0 else 0.0

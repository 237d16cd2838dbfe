"""Which page follows which: a few successors per page with counts, the source of prefetches.

Source: Misra, Gries, "Finding repeated elements", Science of Computer Programming 2, 1982.
"""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.hierarchy.state import NONE, SUCCESSORS

MIN_CONFIDENCE = 2
"""Times that a page must have followed before it is fetched ahead."""


@uncounted
def learn(s, before, p):
    """Counts that `p` followed `before`; a newcomer replaces a successor that has run out of counts."""
    follow, weakest = s.follow[before], 0
    for k in range(SUCCESSORS):
        if follow.successor[k] == p:
            follow.count[k] += 1
            return
        if follow.count[k] < follow.count[weakest]:
            weakest = k
    if follow.count[weakest] > 0:
        follow.count[weakest] -= 1
    if follow.count[weakest] == 0:
        follow.successor[weakest], follow.count[weakest] = p, 1


@uncounted
def predict(s, p, rank):
    """The successor of `p` with the `rank`-th highest count (from 0), NONE if it was not seen twice."""
    follow = s.follow[p]
    for k in range(SUCCESSORS):
        ahead = 0
        for other in range(SUCCESSORS):
            more = follow.count[other] > follow.count[k]
            ahead += more or (follow.count[other] == follow.count[k] and other < k)
        if ahead == rank:
            return follow.successor[k] if follow.count[k] >= MIN_CONFIDENCE else NONE
    return NONE

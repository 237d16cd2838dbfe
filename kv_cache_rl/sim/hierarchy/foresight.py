"""Which page follows which: a few successors per page with counts (Misra and Gries), the source of
prefetches.
"""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.hierarchy.state import (
    NONE,
    SUCCESSORS,
)

MIN_CONFIDENCE = 2


@uncounted
def learn(s, before, p):
    """Counts that `p` followed `before`; a newcomer takes the place of a successor that has run out of
    counts.
    """
    weakest = 0
    for k in range(SUCCESSORS):
        if s.follow[before, k] == p:
            s.follow[before, SUCCESSORS + k] += 1
            return
        if s.follow[before, SUCCESSORS + k] < s.follow[before, SUCCESSORS + weakest]:
            weakest = k
    if s.follow[before, SUCCESSORS + weakest] > 0:
        s.follow[before, SUCCESSORS + weakest] -= 1
    if s.follow[before, SUCCESSORS + weakest] == 0:
        s.follow[before, weakest], s.follow[before, SUCCESSORS + weakest] = p, 1


@uncounted
def predict(s, p, rank):
    """The successor of `p` with the `rank`-th highest count (0: the highest), NONE if it was not seen twice."""
    for k in range(SUCCESSORS):
        ahead = 0
        for other in range(SUCCESSORS):
            more = s.follow[p, SUCCESSORS + other] > s.follow[p, SUCCESSORS + k]
            ahead += more or (s.follow[p, SUCCESSORS + other] == s.follow[p, SUCCESSORS + k] and other < k)
        if ahead == rank:
            return s.follow[p, k] if s.follow[p, SUCCESSORS + k] >= MIN_CONFIDENCE else NONE
    return NONE

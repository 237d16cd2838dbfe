"""S3-FIFO: pages used once leave from a small queue, the others from a FIFO with second chances.

    A  small, 10 % of the tier        B  main        GHOST_A  left from A        mark  uses, at most 3

    announced  a ghost goes on to B
    entered    into A, a former ghost into B
    used       mark + 1
    left       from A: into GHOST_A, which takes at most the bytes of the tier
    victim     if A exceeds its share or B is empty, the oldest of A; marked above 1, it goes to B, mark 0
               else the oldest of B; marked, it goes to the newest end of B, mark - 1

Source: Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023, algorithm 1.
"""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.hierarchy.lists import link_in, link_out, node_of, oldest
from kv_cache_rl.sim.hierarchy.queues.ghosts import admit, forget, recall
from kv_cache_rl.sim.hierarchy.state import GHOST_A, A, B

SMALL = 0.1
"""Share of the tier above which pages leave from the small queue."""


announced, entered = recall, admit


@uncounted
def used(s, t, p):
    """Counts the use."""
    node = s.node[node_of(s, t, p)]
    node.mark = min(node.mark + 1, 3)


@uncounted
def left(s, t, p):
    """Becomes a ghost if it leaves the small queue."""
    was = s.node[node_of(s, t, p)].list
    link_out(s, t, p)
    if was == A:
        link_in(s, t, p, GHOST_A)
        forget(s, t, GHOST_A, s.tiers[t].capacity)


@uncounted
def victim(s, t):
    """The oldest page without enough uses, of the small queue while that is too large."""
    tier = s.tiers[t]
    while True:
        if tier.list_bytes[A] > SMALL * tier.capacity or tier.list_bytes[B] == 0:
            p = oldest(s, t, A)
            node = s.node[node_of(s, t, p)]
            if node.mark <= 1:
                return p
            node.mark = 0
        else:
            p = oldest(s, t, B)
            node = s.node[node_of(s, t, p)]
            if node.mark == 0:
                return p
            node.mark = max(node.mark - 1, 0)
        link_out(s, t, p)
        link_in(s, t, p, B)

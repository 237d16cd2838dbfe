"""SIEVE: a hand walks from the oldest page to the newest and spares those used since it last came by.

    A  all pages, as they entered        mark  1: used        hand  where the walk stands

    entered   into A, mark 0
    used      mark 1
    left      a hand at the page moves on to the next newer one
    victim    from the hand (else the oldest) on to newer pages: marked, mark 0 and on; unmarked, it leaves

Source: Zhang et al., "SIEVE is simpler than LRU: an efficient turn-key eviction algorithm for web caches",
NSDI 2024, algorithm 1.
"""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.hierarchy.lists import link_out, node_of, oldest, page_of
from kv_cache_rl.sim.hierarchy.state import NONE, A


@uncounted
def used(s, t, p):
    """Marks the page; it does not move."""
    s.node[node_of(s, t, p)].mark = 1


@uncounted
def left(s, t, p):
    """The hand moves on from a page that leaves."""
    if s.tiers[t].hand == p:
        s.tiers[t].hand = page_of(s, t, s.node[node_of(s, t, p)].previous)
    link_out(s, t, p)


@uncounted
def victim(s, t):
    """The first page from the hand on that is not marked."""
    p = s.tiers[t].hand
    while True:
        if p == NONE:
            p = oldest(s, t, A)
        node = s.node[node_of(s, t, p)]
        if node.mark == 0:
            s.tiers[t].hand = p
            return p
        node.mark = 0
        p = page_of(s, t, node.previous)

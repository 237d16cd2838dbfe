"""SLRU, segmented LRU: a second use protects a page.

    A  on probation        B  protected, 80 % of the tier

    entered   into A
    used      to the newest end of B; while B is too large, its oldest goes back to the newest end of A
    victim    the oldest of A, else of B

Source: Karedla, Love, Wherry, "Caching strategies to improve disk system performance", Computer 27(3), 1994.
"""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.hierarchy.lists import link_in, link_out, oldest, oldest_of
from kv_cache_rl.sim.hierarchy.state import A, B

PROTECTED = 0.8
"""Share of the tier that the protected part may take."""


@uncounted
def used(s, t, p):
    """A second use protects the page."""
    protect(s, t, p, A, B)


@uncounted
def protect(s, t, p, probation, protected):
    """Moves a page to one list; what that cannot hold goes back to the other."""
    link_out(s, t, p)
    link_in(s, t, p, protected)
    while s.tiers[t].list_bytes[protected] > PROTECTED * s.tiers[t].capacity:
        q = oldest(s, t, protected)
        link_out(s, t, q)
        link_in(s, t, q, probation)


@uncounted
def victim(s, t):
    """The oldest page on probation, else the oldest protected one."""
    return oldest_of(s, t, A, B)

"""LRU: the page that was accessed longest ago leaves first.

used      to the newest end of A
victim    the oldest of A
"""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.hierarchy.lists import link_in, link_out, oldest
from kv_cache_rl.sim.hierarchy.state import A


@uncounted
def used(s, t, p):
    """Becomes the newest."""
    link_out(s, t, p)
    link_in(s, t, p, A)


@uncounted
def victim(s, t):
    """The oldest page."""
    return oldest(s, t, A)

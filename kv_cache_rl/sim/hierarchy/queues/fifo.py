"""FIFO: the page that entered first leaves first.

victim    the oldest of A
"""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.hierarchy.lists import oldest
from kv_cache_rl.sim.hierarchy.state import A


@uncounted
def victim(s, t):
    """The oldest page."""
    return oldest(s, t, A)

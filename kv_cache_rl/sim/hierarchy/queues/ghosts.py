"""What queues share that remember pages after they left: a ghost that returns enters list B instead of A."""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.hierarchy.lists import link_in, link_out, node_of, oldest
from kv_cache_rl.sim.hierarchy.state import GHOST_A, A, B

RETURNED = 9
"""The mark of a page between `recall` and `admit` that was a ghost; no queue counts so far."""


@uncounted
def recall(s, t, p):
    """Takes a page that is about to enter out of the ghosts, if it is one, and marks it."""
    node = s.node[node_of(s, t, p)]
    node.mark = 0
    if node.list >= GHOST_A:
        link_out(s, t, p)
        node.mark = RETURNED


@uncounted
def admit(s, t, p):
    """Puts a page into list B if it was a ghost, else into A."""
    node = s.node[node_of(s, t, p)]
    which = B if node.mark == RETURNED else A
    node.mark = 0
    link_in(s, t, p, which)


@uncounted
def forget(s, t, which, room):
    """Removes the oldest ghosts of a list until the rest take no more than `room` bytes."""
    while s.tiers[t].list_bytes[which] > max(room, 0):
        link_out(s, t, oldest(s, t, which))

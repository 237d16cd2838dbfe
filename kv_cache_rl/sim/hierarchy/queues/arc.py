"""ARC, adaptive replacement: two LRU lists whose ghosts say which of them should be larger.

    A  recent: seen once       GHOST_A  left from A       target  bytes that A should have
    B  frequent: seen again    GHOST_B  left from B

    announced  a ghost of A raises the target, a ghost of B lowers it; either goes on to B
    entered    into A, a former ghost into B; then the oldest ghosts are forgotten:
               A + GHOST_A and GHOST_A + GHOST_B take at most the tier each
    used       to the newest end of B
    left       into the ghosts of its list
    victim     the oldest of A if A is above the target (or at it, and a ghost of B is coming), else of B

Source: Megiddo, Modha, "ARC: A self-tuning, low overhead replacement cache", FAST 2003, figure 4.
"""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.hierarchy.lists import link_in, link_out, node_of, oldest_of
from kv_cache_rl.sim.hierarchy.queues.ghosts import admit, forget, recall
from kv_cache_rl.sim.hierarchy.state import GHOST_A, GHOST_B, A, B


@uncounted
def announced(s, t, p):
    """A ghost that returns moves the target."""
    ghost = s.node[node_of(s, t, p)].list
    s.tiers[t].coming_from = ghost
    if ghost >= GHOST_A:
        _adapt(s, t, p, ghost)
    recall(s, t, p)


@uncounted
def _adapt(s, t, p, ghost):
    tier, size = s.tiers[t], s.page[p].full_bytes
    recent, frequent = max(tier.list_bytes[GHOST_A], 1), max(tier.list_bytes[GHOST_B], 1)
    if ghost == GHOST_A:
        tier.target = min(tier.target + size * max(frequent / recent, 1.0), tier.capacity)
    else:
        tier.target = max(tier.target - size * max(recent / frequent, 1.0), 0.0)


@uncounted
def entered(s, t, p):
    """Enters its list; the ghosts make room, but not while a long request overflows the tier.

    Otherwise that request would make the tier forget all its ghosts.
    """
    admit(s, t, p)
    tier = s.tiers[t]
    if tier.used <= tier.capacity:
        forget(s, t, GHOST_A, tier.capacity - tier.list_bytes[A])
        forget(s, t, GHOST_B, tier.capacity - tier.list_bytes[GHOST_A])


@uncounted
def used(s, t, p):
    """A second use makes the page frequent."""
    link_out(s, t, p)
    link_in(s, t, p, B)


@uncounted
def left(s, t, p):
    """Becomes a ghost."""
    was = s.node[node_of(s, t, p)].list
    link_out(s, t, p)
    link_in(s, t, p, GHOST_A if was == A else GHOST_B)


@uncounted
def victim(s, t):
    """The oldest page of the part that is too large."""
    tier = s.tiers[t]
    recent = tier.list_bytes[A]
    if recent > tier.target or (recent == tier.target and tier.coming_from == GHOST_B):
        return oldest_of(s, t, A, B)
    return oldest_of(s, t, B, A)

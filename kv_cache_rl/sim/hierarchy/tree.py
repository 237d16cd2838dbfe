"""Prefix trees: which blocks lie below a block, and which may leave before it."""

from kv_cache_rl.jit import embedded, uncounted
from kv_cache_rl.sim.hierarchy.state import NONE


@uncounted
def blocked(s, t, p):
    """Whether children of a block lie in the same tier; they leave before it."""
    return s.settings.closed == 1 and s.kids[p, t] > 0


@embedded
def leaf_below(s, t, p):
    """The page itself if it may leave, else a block below it in the same tier that may.

    The way down a long prefix is remembered, for the next victim is likely to be the same.
    """
    q = p
    if s.counters.named == p and s.page[s.counters.leaf].tier == t:
        q = s.counters.leaf
    while blocked(s, t, q):
        q = s.page[q].child
        while s.page[q].tier != t:
            q = s.page[q].elder
    if q != p:
        s.counters.named, s.counters.leaf = p, s.page[q].parent
    return q


@embedded
def adopt(s, p):
    """Enters a block among the resident children of its parent."""
    above = s.page[s.page[p].parent]
    elder = above.child
    above.child = p
    s.page[p].elder, s.page[p].younger = elder, NONE
    if elder != NONE:
        s.page[elder].younger = p


@embedded
def disown(s, p):
    """Takes a block from among the resident children of its parent."""
    elder, younger = s.page[p].elder, s.page[p].younger
    if younger == NONE:
        s.page[s.page[p].parent].child = elder
    else:
        s.page[younger].elder = elder
    if elder != NONE:
        s.page[elder].younger = younger

"""The linked lists of each tier: rings of nodes around a head per list.

head.next is the newest node, head.previous the oldest. A list weighs bytes, not pages: pages differ in size.
"""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.hierarchy.sizes import bytes_of
from kv_cache_rl.sim.hierarchy.state import GHOST_A, LISTS, NONE


@uncounted
def node_of(s, t, p):
    """Index of the node of a page in a tier."""
    return t * s.settings.stride + p


@uncounted
def link_in(s, t, p, which):
    """Puts a page at the newest end of a list."""
    head = _head_of(s, t, which)
    _link_between(s, t, p, which, head, s.node[head].next)


@uncounted
def link_back(s, t, p, which):
    """Puts a page at the oldest end of a list."""
    head = _head_of(s, t, which)
    _link_between(s, t, p, which, s.node[head].previous, head)


@uncounted
def _link_between(s, t, p, which, before, after):
    at = node_of(s, t, p)
    node = s.node[at]
    node.list, node.previous, node.next = which, before, after
    s.node[before].next = at
    s.node[after].previous = at
    s.tiers[t].list_bytes[which] += _weight(s, p, which)


@uncounted
def link_out(s, t, p):
    """Takes a page out of the list it is in."""
    node = s.node[node_of(s, t, p)]
    s.tiers[t].list_bytes[node.list] -= _weight(s, p, node.list)
    node.list = NONE
    before, after = node.previous, node.next
    s.node[before].next = after
    s.node[after].previous = before


@uncounted
def oldest(s, t, which):
    """The page at the oldest end of a list, NONE if it is empty."""
    return page_of(s, t, s.node[_head_of(s, t, which)].previous)


@uncounted
def oldest_of(s, t, first, second):
    """The oldest page of a list, or of another if that is empty."""
    p = oldest(s, t, first)
    return p if p != NONE else oldest(s, t, second)


@uncounted
def page_of(s, t, node):
    """The page of a node of a tier, NONE for the head of a list."""
    return node - t * s.settings.stride if node < s.settings.nodes else NONE


@uncounted
def _head_of(s, t, which):
    return s.settings.nodes + t * LISTS + which


@uncounted
def _weight(s, p, which):
    """Bytes a page counts for in a list; a ghost is counted uncompressed: its precision changes elsewhere."""
    return s.page[p].full_bytes if which >= GHOST_A else bytes_of(s, p)

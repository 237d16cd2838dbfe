"""The order in which pages leave each tier, whether a queue keeps it in lists or a rank in a heap.

decide: `victim` names the page that leaves next
do:     `accessed`, `announced`, `entered`, `touched`, `changed`, `all_changed`, `shrunk`, `left`, `covered`
        and `uncovered` record what happened to a page
"""

from kv_cache_rl.jit import embedded, uncounted
from kv_cache_rl.sim.hierarchy import heap, tournament
from kv_cache_rl.sim.hierarchy.lists import node_of
from kv_cache_rl.sim.hierarchy.queues import folds
from kv_cache_rl.sim.hierarchy.state import NONE, Order
from kv_cache_rl.sim.hierarchy.tree import blocked, leaf_below


@embedded
def accessed(s, p):
    """A page was asked for, wherever it lies."""
    if s.settings.order == Order.LISTED:
        folds.accessed(s.settings.queue, s, p)


@embedded
def announced(s, t, p):
    """A page is about to enter a tier; room has not been made yet."""
    if s.settings.order == Order.LISTED:
        folds.announced(s.settings.queue, s, t, p)


@embedded
def entered(s, t, p):
    """A page entered a tier."""
    if s.settings.order == Order.LISTED:
        folds.entered(s.settings.queue, s, t, p)
    elif not blocked(s, t, p):
        heap.add(s, t, p)


@embedded
def touched(s, t, p):
    """A page was accessed where it lies."""
    if s.settings.order == Order.LISTED:
        folds.used(s.settings.queue, s, t, p)
    else:
        changed(s, t, p)


@embedded
def changed(s, t, p):
    """Something that a rank may look at changed."""
    if s.settings.order != Order.LISTED and s.page[p].place != NONE:
        heap.rekey(s, t, p)


@uncounted
def all_changed(s):
    """Something that a rank looks at changed for all pages."""
    if s.settings.order == Order.MATCHED:
        for t in range(len(s.tiers)):
            tournament.all_changed(s.match[t], s.tiers[t].heaped)


@uncounted
def shrunk(s, t, p, fewer):
    """A page takes fewer bytes where it lies."""
    if s.settings.order == Order.LISTED:
        s.tiers[t].list_bytes[s.node[node_of(s, t, p)].list] -= fewer
    else:
        changed(s, t, p)


@embedded
def left(s, t, p):
    """A page goes out of a tier."""
    if s.settings.order == Order.LISTED:
        folds.left(s.settings.queue, s, t, p)
    elif s.page[p].place != NONE:
        heap.remove(s, t, p)


@embedded
def covered(s, t, p):
    """A block has a child in its own tier, before which it cannot leave."""
    if s.settings.order != Order.LISTED and s.page[p].place != NONE:
        heap.remove(s, t, p)


@embedded
def uncovered(s, t, p):
    """The last child of a block left their tier."""
    if s.settings.order != Order.LISTED:
        heap.add(s, t, p)


@embedded
def named(s, t):
    """The page that a queue or a rank names; a queue may rearrange its lists on the way to it."""
    if s.settings.order == Order.LISTED:
        return folds.victim(s.settings.queue, s, t)
    return heap.lowest(s, t)


@embedded
def victim(s, t):
    """The page that should leave a tier next: the one that is named, or a block below it."""
    if s.settings.order == Order.LISTED:
        return leaf_below(s, t, named(s, t))
    return named(s, t)

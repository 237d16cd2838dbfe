"""How pages move between tiers; every byte is counted on the links it crosses."""

from kv_cache_rl.jit import embedded, uncounted
from kv_cache_rl.sim.compiled import free, give, take
from kv_cache_rl.sim.hierarchy import order
from kv_cache_rl.sim.hierarchy.sizes import bytes_of
from kv_cache_rl.sim.hierarchy.state import DOWN, NONE, PREFETCH, UP, Order
from kv_cache_rl.sim.hierarchy.tree import adopt, disown


@embedded
def enter(s, t, p):
    """Puts a page into a tier; the caller has made room, or will."""
    page = s.page[p]
    take(s.ledger, t, bytes_of(s, p))
    page.tier = t
    page.inserted = s.counters.clock
    if s.settings.chained == 1 and page.parent >= 0:
        above = page.parent
        s.kids[above, t] += 1
        adopt(s, p)
        if s.page[above].tier == t:
            order.covered(s, t, above)
    order.entered(s, t, p)


@embedded
def leave(s, p):
    """Takes a page out of its tier."""
    page = s.page[p]
    t = page.tier
    order.left(s, t, p)
    give(s.ledger, t, bytes_of(s, p))
    page.tier = NONE
    if s.settings.chained == 1 and page.parent >= 0:
        above = page.parent
        s.kids[above, t] -= 1
        disown(s, p)
        if s.kids[above, t] == 0 and s.page[above].tier == t:
            order.uncovered(s, t, above)


@embedded
def transfer(s, source, target, p, cause):
    """Sends a page's bytes over every link between two tiers."""
    size, way = bytes_of(s, p), UP if source > target else DOWN
    for link in range(min(source, target) + 1, max(source, target) + 1):
        tier = s.tiers[link]
        tier.crossed[way, cause] += size
        if way == DOWN or cause == PREFETCH:
            tier.under_way[way] += size
        else:
            tier.asked += size


@uncounted
def _compress(s, t, p):
    """Takes a page one rung down where it lies.

    That takes as long as was measured, or as its bytes take to be read and fewer written.
    """
    page = s.page[p]
    before = bytes_of(s, p)
    page.level += 1
    after = bytes_of(s, p)
    give(s.ledger, t, before - after)
    order.shrunk(s, t, p, before - after)
    s.counters.compressions += 1
    encode = s.rungs[page.level].encode
    s.sums.squeezing += (before + after) / s.tiers[t].one_way if encode < 0.0 else page.full_bytes * encode


@embedded
def evict(s, t, p):
    """Takes a page out of a tier to make room."""
    page = s.page[p]
    s.counters.evictions += 1
    if t == 0 and page.pending:
        page.pending = False
        s.counters.wasted += 1
    if s.settings.regrets == 1:
        page.left_at = s.counters.clock
    if s.settings.order == Order.HEAPED:
        s.tiers[t].inflation = s.heap[t, page.place].key
    leave(s, p)


@uncounted
def make_room(s, t, need, cause):
    """Evicts pages of a tier until `need` more bytes fit, down the tiers, the deepest first."""
    tiers, at, wanted = len(s.tiers), t, need
    while True:
        if free(s.ledger, at) >= wanted:
            if at == t:
                return
            enter(s, at, s.held[at])
            at -= 1
            wanted = need if at == t else bytes_of(s, s.held[at])
            continue
        p = order.victim(s, at)
        if s.page[p].level < s.settings.squeeze_level:
            _compress(s, at, p)
            continue
        evict(s, at, p)
        if at + 1 < tiers:
            transfer(s, at, at + 1, p, cause)
            at += 1
            s.held[at], wanted = p, bytes_of(s, p)
            order.announced(s, at, p)
        else:
            s.counters.drops += 1
            s.page[p].level = 0

"""How pages move between tiers: enter, leave, give way, come up; every byte is booked on the links it
crosses.
"""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.policies.rank import RANK_IDS
from kv_cache_rl.sim.compiled import free, give, take
from kv_cache_rl.sim.hierarchy import queues
from kv_cache_rl.sim.hierarchy.order import adopt, blocked, disown, join, leaf_below, lowest, quit, rekey
from kv_cache_rl.sim.hierarchy.sizes import bytes_of
from kv_cache_rl.sim.hierarchy.state import (
    ASKED,
    CHAINED,
    CLOCK,
    COMPRESSIONS,
    CROSSED,
    DOWN,
    DROPS,
    ENCODE,
    EVICTIONS,
    HEAPED,
    INFLATION,
    INSERTED,
    KIND,
    LEFT,
    LEVEL,
    LISTED,
    NONE,
    ONE_WAY,
    PARENT,
    PENDING,
    PLACE,
    POLICY,
    PREFETCH,
    SIZE,
    SQUEEZE,
    SQUEEZED,
    STRIDE,
    TIER,
    UP,
    WASTED,
    WEIGHT,
    WHERE,
)

_REGRET = RANK_IDS["regret_aware"]


@uncounted
def enter(s, t, p):
    """Puts a page into a tier; whoever calls has made room, or will."""
    take(s.tiers, t, bytes_of(s, p))
    s.page[p, TIER] = t
    s.page[p, INSERTED] = s.counters[CLOCK]
    if s.settings[CHAINED] == 1 and s.page[p, PARENT] >= 0:
        above = s.page[p, PARENT]
        s.kids[above, t] += 1
        adopt(s, p)
        if s.settings[KIND] != LISTED and s.page[above, TIER] == t and s.page[above, PLACE] != NONE:
            quit(s, t, above)
    if s.settings[KIND] == LISTED:
        queues.entered(s, t, p)
    elif not blocked(s, t, p):
        join(s, t, p)


@uncounted
def leave(s, p):
    """Takes a page out of its tier."""
    t = s.page[p, TIER]
    if s.settings[KIND] == LISTED:
        queues.left(s, t, p)
    elif s.page[p, PLACE] != NONE:
        quit(s, t, p)
    give(s.tiers, t, bytes_of(s, p))
    s.page[p, TIER] = NONE
    if s.settings[CHAINED] == 1 and s.page[p, PARENT] >= 0:
        above = s.page[p, PARENT]
        s.kids[above, t] -= 1
        disown(s, p)
        if s.settings[KIND] != LISTED and s.kids[above, t] == 0 and s.page[above, TIER] == t:
            join(s, t, above)


@uncounted
def book(s, source, target, p, cause):
    """Books a page's bytes on every link between two tiers."""
    size, way = bytes_of(s, p), UP if source > target else DOWN
    for link in range(min(source, target) + 1, max(source, target) + 1):
        s.tiers[link, CROSSED + 2 * way + cause] += size
        if way == DOWN or cause == PREFETCH:
            s.rates[link, way] += size
        else:
            s.tiers[link, ASKED] += size


@uncounted
def _compress(s, t, p):
    """Takes a page one rung down where it lies: as long as was measured, or as its bytes take to be read and
    fewer written.
    """
    before = bytes_of(s, p)
    s.page[p, LEVEL] += 1
    after = bytes_of(s, p)
    give(s.tiers, t, before - after)
    if s.settings[KIND] == LISTED:
        s.tiers[t, WEIGHT + s.node[t * s.settings[STRIDE] + p, WHERE]] -= before - after
    else:
        rekey(s, t, p)
    s.counters[COMPRESSIONS] += 1
    encode = s.table[ENCODE + s.page[p, LEVEL]]
    s.clocks[SQUEEZED] += (before + after) / s.rates[t, ONE_WAY] if encode < 0.0 else s.page[p, SIZE] * encode


@uncounted
def _part(s, t, p):
    """A page leaves because somebody needs its room."""
    now = s.counters[CLOCK]
    s.counters[EVICTIONS] += 1
    if t == 0:
        if s.page[p, PENDING]:
            s.page[p, PENDING] = False
            s.counters[WASTED] += 1
    if s.settings[POLICY] == _REGRET:
        s.page[p, LEFT] = now
    if s.settings[KIND] == HEAPED:
        s.rates[t, INFLATION] = s.key[t, s.page[p, PLACE]]
    leave(s, p)


@uncounted
def make_room(s, t, need, cause):
    """Lets pages of a tier give way until `need` more bytes fit, down the tiers, deepest first."""
    tiers, at, wanted = len(s.tiers), t, need
    while True:
        if free(s.tiers, at) >= wanted:
            if at == t:
                return
            enter(s, at, s.held[at])
            at -= 1
            wanted = need if at == t else bytes_of(s, s.held[at])
            continue
        p = leaf_below(s, at, queues.victim(s, at)) if s.settings[KIND] == LISTED else lowest(s, at)
        if s.page[p, LEVEL] < s.settings[SQUEEZE]:
            _compress(s, at, p)
            continue
        _part(s, at, p)
        if at + 1 < tiers:
            book(s, at, at + 1, p, cause)
            at += 1
            s.held[at], wanted = p, bytes_of(s, p)
            if s.settings[KIND] == LISTED:
                queues.announced(s, at, p)
        else:
            s.counters[DROPS] += 1
            s.page[p, LEVEL] = 0

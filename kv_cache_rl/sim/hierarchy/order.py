"""The order in which pages of a tier give way: linked lists, heaps of resting keys, columns scanned where
keys drift.
"""

import numpy as np

from kv_cache_rl.core import candidates
from kv_cache_rl.core.draws import WEYL
from kv_cache_rl.jit import uncounted
from kv_cache_rl.policies.rank import RANK_IDS, rank, recency, staleness
from kv_cache_rl.sim.compiled import mixed, unit
from kv_cache_rl.sim.hierarchy.sizes import bytes_of
from kv_cache_rl.sim.hierarchy.state import (
    ABOVE,
    AGE_SHIFT,
    AGES,
    CHAINED,
    CHILD,
    CLASSES,
    CLOCK,
    CLOSED,
    COMPUTE,
    DEPTH,
    DRAWS,
    ELDER,
    FREQUENCY,
    GHOST_A,
    HEAPED_PAGES,
    INFLATION,
    INSERTED,
    KIND,
    LAST,
    LEAF,
    LISTS,
    NEXT,
    NODES,
    NONE,
    PARENT,
    PLACE,
    POLICY,
    PREVIOUS,
    RECENT,
    SCANNED,
    SEED,
    SIZE,
    STRIDE,
    TIER,
    USES,
    WEIGHT,
    WHERE,
    YOUNGER,
)

_GDSF, _TTL, _VALUE, _RANDOM = (RANK_IDS[name] for name in ("gdsf", "ttl", "value_aware", "random"))
_CLASS_BITS = 3


# --- lists: a ring of nodes around a head per list; next of the head is the newest node, previous of it the
# oldest ---


@uncounted
def head_of(s, t, which):
    """The sentinel of a list."""
    return s.settings[NODES] + t * LISTS + which


@uncounted
def _weight(s, p, which):
    """Bytes a page counts for in a list; a ghost counts as it was at first, since it is compressed and
    restored elsewhere.
    """
    return s.page[p, SIZE] if which >= GHOST_A else bytes_of(s, p)


@uncounted
def link_in(s, t, p, which):
    """Puts a page at the newest end of a list."""
    node, head = t * s.settings[STRIDE] + p, head_of(s, t, which)
    s.node[node, WHERE] = which
    s.tiers[t, WEIGHT + which] += _weight(s, p, which)
    after = s.node[head, NEXT]
    s.node[head, NEXT], s.node[node, PREVIOUS], s.node[node, NEXT], s.node[after, PREVIOUS] = (
        node,
        head,
        after,
        node,
    )


@uncounted
def link_out(s, t, p):
    """Takes a page out of the list it is in."""
    node = t * s.settings[STRIDE] + p
    s.tiers[t, WEIGHT + s.node[node, WHERE]] -= _weight(s, p, s.node[node, WHERE])
    s.node[node, WHERE] = NONE
    before, after = s.node[node, PREVIOUS], s.node[node, NEXT]
    s.node[before, NEXT], s.node[after, PREVIOUS] = after, before


@uncounted
def oldest(s, t, which):
    """The page at the oldest end of a list, NONE if it is empty."""
    node = s.node[head_of(s, t, which), PREVIOUS]
    return node - t * s.settings[STRIDE] if node < s.settings[NODES] else NONE


@uncounted
def blocked(s, t, p):
    """Whether pages lie here that need this one: a child leaves before its parent."""
    return s.settings[CLOSED] == 1 and s.kids[p, t] > 0


@uncounted
def leaf_below(s, t, p):
    """The page itself if it may leave, else a block of the same tier that needs it and that nobody here
    needs.

    The way down a long prefix is remembered, for the next victim is likely to be the same.
    """
    q = p
    if s.counters[ABOVE] == p and s.page[s.counters[LEAF], TIER] == t:
        q = s.counters[LEAF]
    while blocked(s, t, q):
        q = s.page[q, CHILD]
        while s.page[q, TIER] != t:
            q = s.page[q, ELDER]
    if q != p:
        s.counters[ABOVE], s.counters[LEAF] = p, s.page[q, PARENT]
    return q


@uncounted
def adopt(s, p):
    """Enters a block among the resident children of its parent."""
    above = s.page[p, PARENT]
    elder = s.page[above, CHILD]
    s.page[above, CHILD], s.page[p, ELDER], s.page[p, YOUNGER] = p, elder, NONE
    if elder != NONE:
        s.page[elder, YOUNGER] = p


@uncounted
def disown(s, p):
    """Takes a block from among the resident children of its parent."""
    elder, younger = s.page[p, ELDER], s.page[p, YOUNGER]
    if younger == NONE:
        s.page[s.page[p, PARENT], CHILD] = elder
    else:
        s.page[younger, ELDER] = elder
    if elder != NONE:
        s.page[elder, YOUNGER] = younger


# --- keys ---


@uncounted
def draw(s):
    """A uniform number in [0, 1), the next of the replay's own sequence."""
    s.counters[DRAWS] += 1
    return unit(mixed((np.uint64(s.settings[SEED]) + np.uint64(s.counters[DRAWS])) * WEYL))


@uncounted
def resting_key(s, t, p):
    """Key of a page's row at clock zero; where keys drift, the part that does not."""
    policy, c, still = s.settings[POLICY], s.row, s.settings[KIND] == SCANNED
    if policy == _TTL:
        return 1.0 / bytes_of(s, p)
    last = 0.0 if still else np.float64(s.page[p, LAST])
    depth = s.page[p, DEPTH] if s.settings[CHAINED] == 1 else 0
    c[candidates.SIZE] = bytes_of(s, p)
    c[candidates.TOKENS] = 1.0
    c[candidates.IDLE] = -s.rates[t, INFLATION] if policy == _GDSF else -last
    c[candidates.AGE] = -s.page[p, INSERTED]
    c[candidates.USES] = s.page[p, USES]
    c[candidates.FREQUENCY] = s.page[p, FREQUENCY]
    c[candidates.LAST] = last
    c[candidates.NOW] = 1.0
    c[candidates.RECENT_USES] = s.page[p, RECENT]
    c[candidates.REGRET] = s.reals[0] * s.regret[p]
    c[candidates.RELOAD_S] = s.table[COMPUTE + depth + 1] - s.table[COMPUTE + depth]
    c[candidates.VALUE] = 1.0 / (1.0 + s.page[p, USES])
    c[candidates.INSERTED] = s.page[p, INSERTED]
    return rank(policy, c)


# --- heaps (keys at rest) and members to scan (keys that drift) share their columns ---


@uncounted
def _move(s, t, i, j):
    """Copies the entry at `i` of a heap to `j`."""
    p = s.heap[t, 0, i]
    s.heap[t, 0, j], s.heap[t, 1, j], s.key[t, j] = p, s.heap[t, 1, i], s.key[t, i]
    s.page[p, PLACE] = j


@uncounted
def _before(s, t, i, key, tie):
    return s.key[t, i] < key or (s.key[t, i] == key and s.heap[t, 1, i] < tie)


@uncounted
def _settle(s, t, i):
    """Restores the heap after the key at `i` changed: others move over until its place is found."""
    p, tie, key, n, start = s.heap[t, 0, i], s.heap[t, 1, i], s.key[t, i], s.tiers[t, HEAPED_PAGES], i
    while i > 0 and not _before(s, t, (i - 1) // 2, key, tie):
        _move(s, t, (i - 1) // 2, i)
        i = (i - 1) // 2
    while i >= start:
        child = 2 * i + 1
        if child + 1 < n and _before(s, t, child + 1, s.key[t, child], s.heap[t, 1, child]):
            child += 1
        if child >= n or not _before(s, t, child, key, tie):
            break
        _move(s, t, child, i)
        i = child
    s.heap[t, 0, i], s.heap[t, 1, i], s.key[t, i], s.page[p, PLACE] = p, tie, key, i


@uncounted
def join(s, t, p):
    """Enters a page among those that could leave a tier."""
    i = s.tiers[t, HEAPED_PAGES]
    s.tiers[t, HEAPED_PAGES] += 1
    s.heap[t, 0, i], s.page[p, PLACE] = p, i
    rekey(s, t, p)


@uncounted
def rekey(s, t, p):
    """Gives a page of the heap its present key."""
    i = s.page[p, PLACE]
    s.key[t, i] = resting_key(s, t, p)
    if s.settings[KIND] == SCANNED:
        s.heap[t, 1, i] = (
            s.page[p, LAST] if s.settings[POLICY] != _TTL else s.page[p, LAST] * CLASSES + use_class(s, p)
        )
        return
    s.heap[t, 1, i] = s.page[p, INSERTED]
    _settle(s, t, i)


@uncounted
def quit(s, t, p):
    """Takes a page from among those that could leave a tier."""
    i, end = s.page[p, PLACE], s.tiers[t, HEAPED_PAGES] - 1
    s.tiers[t, HEAPED_PAGES] = end
    s.page[p, PLACE] = NONE
    if i != end:
        _move(s, t, end, i)
        if s.settings[KIND] != SCANNED:
            _settle(s, t, i)


@uncounted
def use_class(s, p):
    """Class of a page whose return hazard is estimated together with others': how often it was used, up to
    CLASSES.
    """
    return min(s.page[p, FREQUENCY], CLASSES) - 1


@uncounted
def age_bin(s, idle):
    """Bin of an age in accesses."""
    return min(idle >> s.settings[AGE_SHIFT], AGES - 1)


@uncounted
def lowest(s, t):
    """The page whose key is lowest now."""
    if s.settings[KIND] != SCANNED:
        return s.heap[t, 0, 0]
    n, now, policy = s.tiers[t, HEAPED_PAGES], s.counters[CLOCK], s.settings[POLICY]
    key, last = s.key[t], s.heap[t, 1]
    best, at = np.inf, 0
    if policy == _RANDOM:
        at = int(draw(s) * n)
    elif policy == _TTL:
        density, shift = s.density[0], s.settings[AGE_SHIFT]
        for i in range(n):
            value = (
                key[i]
                * density[last[i] & (CLASSES - 1), min((now - (last[i] >> _CLASS_BITS)) >> shift, AGES - 1)]
            )
            if value < best:
                best, at = value, i
    elif policy == _VALUE:
        for i in range(n):
            value = key[i] + staleness(np.float64(now - last[i]))
            if value < best:
                best, at = value, i
    else:
        for i in range(n):
            value = key[i] + recency(np.float64(last[i]), np.float64(now))
            if value < best:
                best, at = value, i
    return s.heap[t, 0, at]

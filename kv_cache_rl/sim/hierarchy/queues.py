"""Policies that are queues rather than ranks, one instance per tier: SLRU, ARC, S3-FIFO, SIEVE and W-TinyLFU;
LRU and FIFO.

    decide: `victim` names the page that leaves next      do: `announced`, `entered`, `used` and `left` keep the lists

A block whose children lie in the same tier cannot leave before them: where a queue names one, the deepest
below it leaves."""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.hierarchy.order import link_in, link_out, oldest
from kv_cache_rl.sim.hierarchy.sizes import bytes_of
from kv_cache_rl.sim.hierarchy.state import (
    CAPACITY,
    GHOST_A,
    GHOST_B,
    HAND,
    MARK,
    NODES,
    NONE,
    POLICY,
    POLICY_IDS,
    PREVIOUS,
    SIZE,
    SKETCH_ADDS,
    STRIDE,
    TARGET,
    USED,
    WEIGHT,
    WHERE,
    A,
    B,
    C,
)

_LRU, _SLRU, _ARC, _S3FIFO, _SIEVE, _TINYLFU = (
    POLICY_IDS[n] for n in ("lru", "slru", "arc", "s3fifo", "sieve", "tinylfu")
)
_PROTECTED = 0.8
_SMALL = 0.1
_WINDOW = 0.01
_RETURNED = 9


@uncounted
def announced(s, t, p):
    """A page is about to come into a tier: a ghost is remembered, before room is made."""
    node = t * s.settings[STRIDE] + p
    ghost = s.node[node, WHERE]
    s.node[node, MARK] = 0
    if s.settings[POLICY] == _ARC:
        s.tiers[t, HAND] = ghost
    if ghost >= GHOST_A:
        if s.settings[POLICY] == _ARC:
            _adapt(s, t, p, ghost)
        link_out(s, t, p)
        s.node[node, MARK] = _RETURNED


@uncounted
def entered(s, t, p):
    """A page came into a tier."""
    node = t * s.settings[STRIDE] + p
    which = B if s.node[node, MARK] == _RETURNED else A
    s.node[node, MARK] = 0
    link_in(s, t, p, which)
    if s.settings[POLICY] == _ARC:
        _trim(s, t)


@uncounted
def used(s, t, p):
    """A page was accessed where it lies."""
    policy, node = s.settings[POLICY], t * s.settings[STRIDE] + p
    if policy == _LRU:
        link_out(s, t, p)
        link_in(s, t, p, A)
    elif policy == _SLRU:
        _protect(s, t, p, A, B)
    elif policy == _ARC:
        link_out(s, t, p)
        link_in(s, t, p, B)
    elif policy == _S3FIFO:
        s.node[node, MARK] = min(s.node[node, MARK] + 1, 3)
    elif policy == _SIEVE:
        s.node[node, MARK] = 1
    elif policy == _TINYLFU:
        if s.node[node, WHERE] == A:
            link_out(s, t, p)
            link_in(s, t, p, A)
        else:
            _protect(s, t, p, B, C)


@uncounted
def left(s, t, p):
    """A page goes out of a tier."""
    policy, node = s.settings[POLICY], t * s.settings[STRIDE] + p
    was = s.node[node, WHERE]
    if policy == _SIEVE and s.tiers[t, HAND] == p:
        before = s.node[node, PREVIOUS]
        s.tiers[t, HAND] = before - t * s.settings[STRIDE] if before < s.settings[NODES] else NONE
    link_out(s, t, p)
    if policy == _S3FIFO and was == A:
        link_in(s, t, p, GHOST_A)
        _forget(s, t, GHOST_A, s.tiers[t, CAPACITY])
    elif policy == _ARC:
        link_in(s, t, p, GHOST_A if was == A else GHOST_B)


@uncounted
def victim(s, t):
    """The page that should leave next; lists may be rearranged on the way to it."""
    policy = s.settings[POLICY]
    if policy == _SLRU:
        return _oldest_of(s, t, A, B)
    if policy == _ARC:
        return _arc(s, t)
    if policy == _S3FIFO:
        return _s3fifo(s, t)
    if policy == _SIEVE:
        return _sieve(s, t)
    if policy == _TINYLFU:
        return _tinylfu(s, t)
    return oldest(s, t, A)


@uncounted
def _oldest_of(s, t, first, second):
    """The oldest page of a list, or of another if that is empty."""
    p = oldest(s, t, first)
    return p if p != NONE else oldest(s, t, second)


@uncounted
def _protect(s, t, p, probation, protected):
    """SLRU: a second use protects; what the protected part cannot hold goes back on probation.

    Source: Karedla, Love, Wherry, "Caching strategies to improve disk system performance", Computer 27(3),
    1994."""
    link_out(s, t, p)
    link_in(s, t, p, protected)
    while s.tiers[t, WEIGHT + protected] > _PROTECTED * s.tiers[t, CAPACITY]:
        q = oldest(s, t, protected)
        link_out(s, t, q)
        link_in(s, t, q, probation)


@uncounted
def _adapt(s, t, p, ghost):
    """ARC: a ghost that returns moves the target of the recent part.

    Source: Megiddo, Modha, "ARC", FAST 2003, figure 4.
    """
    recent, frequent = max(s.tiers[t, WEIGHT + GHOST_A], 1), max(s.tiers[t, WEIGHT + GHOST_B], 1)
    size = s.page[p, SIZE]
    if ghost == GHOST_A:
        s.rates[t, TARGET] = min(
            s.rates[t, TARGET] + size * max(frequent / recent, 1.0), s.tiers[t, CAPACITY]
        )
    else:
        s.rates[t, TARGET] = max(s.rates[t, TARGET] - size * max(recent / frequent, 1.0), 0.0)


@uncounted
def _arc(s, t):
    recent, target = s.tiers[t, WEIGHT + A], s.rates[t, TARGET]
    if recent > target or (
        recent == target and s.tiers[t, HAND] == GHOST_B
    ):  # what is coming was a ghost of the frequent part
        return _oldest_of(s, t, A, B)
    return _oldest_of(s, t, B, A)


@uncounted
def _trim(s, t):
    """ARC remembers no more than the tier holds, recent pages and their ghosts together no more either.

    Not while a long request overflows the tier, which would forget everything.
    """
    if s.tiers[t, USED] <= s.tiers[t, CAPACITY]:
        _forget(s, t, GHOST_A, s.tiers[t, CAPACITY] - s.tiers[t, WEIGHT + A])
        _forget(s, t, GHOST_B, s.tiers[t, CAPACITY] - s.tiers[t, WEIGHT + GHOST_A])


@uncounted
def _forget(s, t, which, room):
    while s.tiers[t, WEIGHT + which] > max(room, 0):
        link_out(s, t, oldest(s, t, which))


@uncounted
def _s3fifo(s, t):
    """S3-FIFO: one-hit wonders leave from a small queue, the rest from a FIFO with second chances.

    Source: Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023, algorithm 1.
    """
    base = t * s.settings[STRIDE]
    while True:
        if s.tiers[t, WEIGHT + A] > _SMALL * s.tiers[t, CAPACITY] or s.tiers[t, WEIGHT + B] == 0:
            p = oldest(s, t, A)
            if s.node[base + p, MARK] <= 1:
                return p
            s.node[base + p, MARK] = 0
        else:
            p = oldest(s, t, B)
            if s.node[base + p, MARK] == 0:
                return p
            s.node[base + p, MARK] = max(s.node[base + p, MARK] - 1, 0)
        link_out(s, t, p)
        link_in(s, t, p, B)


@uncounted
def _sieve(s, t):
    """SIEVE: a hand walks from old to new and spares what was visited.

    Source: Zhang et al., NSDI 2024, algorithm 1.
    """
    base = t * s.settings[STRIDE]
    p = s.tiers[t, HAND]
    while True:
        if p == NONE:
            p = oldest(s, t, A)
        if s.node[base + p, MARK] == 0:
            s.tiers[t, HAND] = p
            return p
        s.node[base + p, MARK] = 0
        before = s.node[base + p, PREVIOUS]
        p = before - base if before < s.settings[NODES] else NONE


@uncounted
def _tinylfu(s, t):
    """W-TinyLFU: the window's oldest page must have been seen more often than the main part's to push it out.

    Source: Einziger, Friedman, Manes, "TinyLFU: A highly efficient cache admission policy", ACM ToS 13(4),
    2017."""
    capacity = s.tiers[t, CAPACITY]
    while True:
        rival, p = _oldest_of(s, t, B, C), oldest(s, t, A)
        if p == NONE:
            return rival
        size = bytes_of(s, p)
        if (
            s.tiers[t, WEIGHT + A] + size <= _WINDOW * capacity and rival != NONE
        ):  # the newcomer fits into the window
            return rival
        fits = s.tiers[t, WEIGHT + B] + s.tiers[t, WEIGHT + C] + size <= (1.0 - _WINDOW) * capacity
        if not fits and (rival == NONE or _seen(s, p) <= _seen(s, rival)):
            return p
        link_out(s, t, p)
        link_in(s, t, p, B)
        if not fits:
            return rival


@uncounted
def _cell(s, p, row):
    word = (p + 1) * (0x9E3779B97F4A7C1 + 0x632BE59BD9B4E01 * row)
    return (word >> 20) & (s.sketch.shape[1] - 1)


@uncounted
def count(s, p):
    """Adds an access to the sketch, which forgets half of everything after ten accesses per page that fits.

    Four rows of four counters per page, as Caffeine has them: with fewer, pages seen once drown those seen
    often."""
    for row in range(4):
        at = _cell(s, p, row)
        if s.sketch[row, at] < 15:
            s.sketch[row, at] += 1
    s.counters[SKETCH_ADDS] += 1
    if s.counters[SKETCH_ADDS] >= 10 * s.sketch.shape[1] // 4:
        s.counters[SKETCH_ADDS] = 0
        for row in range(4):
            for at in range(s.sketch.shape[1]):
                s.sketch[row, at] >>= 1


@uncounted
def _seen(s, p):
    low = 255
    for row in range(4):
        low = min(low, s.sketch[row, _cell(s, p, row)])
    return low

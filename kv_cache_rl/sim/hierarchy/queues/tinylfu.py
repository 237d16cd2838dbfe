"""W-TinyLFU: a page passes from a window to the main part if it was seen more often than the victim there.

    A     window, 1 % of the tier            sketch  counts accesses, halved now and then
    B, C  main part, SLRU: on probation, protected

    accessed  counted in the sketch, wherever the page lies
    entered   into A
    used      in A: to its newest end; else as in SLRU
    victim    the candidate is the oldest of A, the rival the victim of SLRU
              no candidate, or one more page of its size fits into the window: the rival leaves
              the main part has room for the candidate: it goes to B, and on
              seen more often than the rival: it goes to B, the rival leaves; else the candidate leaves

Source: Einziger, Friedman, Manes, "TinyLFU: A highly efficient cache admission policy", ACM ToS 13(4), 2017.
"""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.hierarchy.lists import link_in, link_out, node_of, oldest, oldest_of
from kv_cache_rl.sim.hierarchy.queues.slru import protect
from kv_cache_rl.sim.hierarchy.sizes import bytes_of
from kv_cache_rl.sim.hierarchy.state import NONE, A, B, C

WINDOW = 0.01
"""Share of the tier that is the window."""


@uncounted
def accessed(s, p):
    """Adds an access to the sketch, which forgets half of everything after ten accesses per page that fits.

    Four rows of four counters per page, as Caffeine has them: with fewer, pages seen once drown the others.
    """
    for row in range(4):
        at = _cell(s, p, row)
        if s.sketch[row, at] < 15:
            s.sketch[row, at] += 1
    s.counters.sketched += 1
    if s.counters.sketched >= 10 * s.sketch.shape[1] // 4:
        s.counters.sketched = 0
        for row in range(4):
            for at in range(s.sketch.shape[1]):
                s.sketch[row, at] >>= 1


@uncounted
def used(s, t, p):
    """Becomes the newest of the window, or protected in the main part."""
    if s.node[node_of(s, t, p)].list == A:
        link_out(s, t, p)
        link_in(s, t, p, A)
    else:
        protect(s, t, p, B, C)


@uncounted
def victim(s, t):
    """The loser of the window's oldest page and the main part's victim."""
    tier = s.tiers[t]
    while True:
        rival, p = oldest_of(s, t, B, C), oldest(s, t, A)
        if p == NONE:
            return rival
        size = bytes_of(s, p)
        if tier.list_bytes[A] + size <= WINDOW * tier.capacity and rival != NONE:
            return rival
        fits = tier.list_bytes[B] + tier.list_bytes[C] + size <= (1.0 - WINDOW) * tier.capacity
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
def _seen(s, p):
    """Accesses to a page as the sketch remembers them, at least."""
    low = 255
    for row in range(4):
        low = min(low, s.sketch[row, _cell(s, p, row)])
    return low

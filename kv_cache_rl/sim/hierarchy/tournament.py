"""A kinetic tournament: the page whose drifting key is lowest now, without a look at all others.

Neighbours in `heap` play a match, and its winner plays the winner of the match beside it. The lower key wins,
among equals the lower index, so that the last winner is what a scan would find. Each match knows the clock
until which its own result and all those below it hold, and only what holds no longer is played again.

            match 1                   match m is between the winners of 2m and 2m + 1
      match 2     match 3             M ... 2M - 1 are the pages of `heap`
    page 0  1   page 2  3             beyond the last page there is none to play, and the other one wins

touched       a page got another key, came or went: the matches above it hold no longer
all_changed   all keys changed at once
lowest        plays what holds no longer, and names the winner

Source: Basch, Guibas, Hershberger, "Data structures for mobile data", Journal of Algorithms 31(1), 1999.
"""

import numpy as np

from kv_cache_rl.jit import uncounted
from kv_cache_rl.policies.rank import FOREVER, drift, holds
from kv_cache_rl.sim.hierarchy.observe import age_bin
from kv_cache_rl.sim.hierarchy.state import AGES

AHEAD = 6
"""Changes of bins that a match looks ahead: about as many as there are before hazards are learnt anew."""
NEVER = np.int64(2**62)


def matches_for(pages: int) -> int:
    """M of a tournament of so many pages, a power of two."""
    return max(2, 1 << (pages - 1).bit_length())


@uncounted
def present_key(s, t, i):
    """What the page at index `i` of `heap` is worth now."""
    return _key_at(s, t, i, s.counters.clock)


@uncounted
def _key_at(s, t, i, clock):
    last = s.last[t, i]
    if s.settings.returns == 1:
        return s.key[t, i] * s.hazard[s.use_class[t, i], age_bin(s, clock - last)]
    return s.key[t, i] + drift(s.settings.rank, np.float64(last), np.float64(clock))


@uncounted
def touched(s, t, i):
    """The matches on the way of index `i` hold no longer.

    Above one that does not, none does, unless its pages have only just come or gone.
    """
    m, last = (s.until.shape[1] + i) >> 1, i >= s.tiers[t].heaped - 1
    while m > 0 and (last or s.until[t, m] > 0.0):
        s.until[t, m] = 0.0
        m >>= 1


@uncounted
def all_changed(s):
    """No match holds any longer."""
    for t in range(len(s.tiers)):
        first, count = s.until.shape[1] >> 1, (s.tiers[t].heaped + 1) >> 1
        while first > 0:
            for m in range(first, first + count):
                s.until[t, m] = 0.0
            first, count = first >> 1, (count + 1) >> 1


@uncounted
def lowest(s, t):
    """Index in `heap` of the page whose key is lowest now, the first among equals."""
    pages, now = s.tiers[t].heaped, np.float64(s.counters.clock)
    if pages == 1:
        return 0
    final, height = s.until.shape[1] >> 1, 1  # height of the match at hand, from the pages up
    while (1 << height) < pages:
        final, height = final >> 1, height + 1
    m = final
    while s.until[t, final] <= now:
        if height > 1 and s.until[t, 2 * m] <= now:
            m, height = 2 * m, height - 1
        elif height > 1 and s.until[t, 2 * m + 1] <= now and _first(s, 2 * m + 1, height - 1) < pages:
            m, height = 2 * m + 1, height - 1
        else:
            _play(s, t, m, height, now)
            if m != final:
                m, height = m >> 1, height + 1
    return np.int64(s.winner[t, final])


@uncounted
def _first(s, m, height):
    """Index of the first page below a match."""
    return (m << height) - s.until.shape[1]


@uncounted
def _play(s, t, m, height, now):
    """Plays a match, below which all results hold."""
    a, b = _first(s, 2 * m, height - 1), _first(s, 2 * m + 1, height - 1)
    until, alone = FOREVER, b >= s.tiers[t].heaped
    if height > 1:
        a, until = np.int64(s.winner[t, 2 * m]), s.until[t, 2 * m]
        if not alone:
            b, until = np.int64(s.winner[t, 2 * m + 1]), min(until, s.until[t, 2 * m + 1])
    if not alone:
        until = min(until, _holds(s, t, a, b, now))
        if present_key(s, t, b) < present_key(s, t, a):
            a = b
    s.winner[t, m], s.until[t, m] = a, until


@uncounted
def _holds(s, t, a, b, now):
    """The clock before which two pages that nothing touches keep their order."""
    if s.settings.returns == 1:
        return _bins_hold(s, t, a, b)
    key, last = s.key[t], s.last[t]
    return holds(s.settings.rank, key[a], np.float64(last[a]), key[b], np.float64(last[b]), now)


@uncounted
def _bins_hold(s, t, a, b):
    """As `_holds` where keys change with the bins of idle times, some of which are looked up ahead."""
    clock = s.counters.clock
    turned = present_key(s, t, b) < present_key(s, t, a)
    for _ in range(AHEAD):
        clock = min(_next_bin(s, s.last[t, a], clock), _next_bin(s, s.last[t, b], clock))
        if clock == NEVER:
            return FOREVER
        if (_key_at(s, t, b, clock) < _key_at(s, t, a, clock)) != turned:
            break
    return np.float64(clock)


@uncounted
def _next_bin(s, last, clock):
    """The clock at which the idle time of a page passes into the next bin."""
    following = age_bin(s, clock - last) + 1
    return NEVER if following == AGES else last + (following << s.settings.age_shift)

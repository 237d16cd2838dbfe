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

A match keeps what is compared of its winner, so that the next one looks at its two matches and nowhere else.

Source: Basch, Guibas, Hershberger, "Data structures for mobile data", Journal of Algorithms 31(1), 1999.
"""

from typing import NamedTuple

import numpy as np

from kv_cache_rl.jit import embedded, uncounted
from kv_cache_rl.policies.rank import FOREVER, drift, holds
from kv_cache_rl.sim.hierarchy.observe import age_bin
from kv_cache_rl.sim.hierarchy.state import AGES

AHEAD = 6
"""Changes of bins that a match looks ahead: about as many as there are before hazards are learnt anew."""
NEVER = np.int64(2**62)


class Field(NamedTuple):
    """What a tournament in one tier reads of a replay: to pass all of a `State` takes longer than a match."""

    rank: int
    returns: int  # this and the next as in SETTINGS
    age_shift: int
    heap: np.ndarray  # ENTRY [P]
    use_class: np.ndarray  # uint8 [P]
    hazard: np.ndarray
    match: np.ndarray  # MATCH [M]
    pages: int  # in `heap`
    clock: int


class Player(NamedTuple):
    """A page of a tournament, as a match knows it."""

    index: np.int64  # in `heap`
    key: float  # at rest
    stamp: np.int64  # its last access


@embedded
def _field(s, t):
    rules, arrays = s.settings, (s.heap[t], s.use_class[t], s.hazard, s.match[t])
    return Field(rules.rank, rules.returns, rules.age_shift, *arrays, s.tiers[t].heaped, s.counters.clock)


def matches_for(pages: int) -> int:
    """M of a tournament of so many pages, a power of two."""
    return max(2, 1 << (pages - 1).bit_length())


@embedded
def present_key(s, t, i):
    """What the page at index `i` of `heap` is worth now."""
    f = _field(s, t)
    return _key_at(f, _entered(f, i), f.clock)


@embedded
def _key_at(f, player, clock):
    if f.returns == 1:
        return player.key * f.hazard[f.use_class[player.index], age_bin(f.age_shift, clock - player.stamp)]
    return player.key + drift(f.rank, np.float64(player.stamp), np.float64(clock))


@uncounted
def touched(match, i, last):
    """The matches on the way of index `i` hold no longer; `last` says whether it is the last one.

    Above one that does not, none does, unless its pages have only just come or gone.
    """
    m = (len(match) + i) >> 1
    while m > 0 and (last or match[m].until > 0.0):
        match[m].until = 0.0
        m >>= 1


@uncounted
def all_changed(match, pages):
    """No match of so many pages holds any longer."""
    first, count = len(match) >> 1, (pages + 1) >> 1
    while first > 0:
        for m in range(first, first + count):
            match[m].until = 0.0
        first, count = first >> 1, (count + 1) >> 1


@embedded
def lowest(s, t):
    """Index in `heap` of the page whose key is lowest now, the first among equals."""
    return _lowest(_field(s, t))


@uncounted
def _lowest(f):
    match, now = f.match, np.float64(f.clock)
    if f.pages == 1:
        return np.int64(0)
    final, height = len(match) >> 1, 1  # height of the match at hand, from the pages up
    while (1 << height) < f.pages:
        final, height = final >> 1, height + 1
    m = final
    while match[final].until <= now:
        if height > 1 and match[2 * m].until <= now:
            m, height = 2 * m, height - 1
        elif height > 1 and match[2 * m + 1].until <= now and _first(f, 2 * m + 1, height - 1) < f.pages:
            m, height = 2 * m + 1, height - 1
        else:
            _play(f, m, height, now)
            if m != final:
                m, height = m >> 1, height + 1
    return np.int64(match[final].winner)


@embedded
def _first(f, m, height):
    """Index of the first page below a match."""
    return (m << height) - len(f.match)


@embedded
def _play(f, m, height, now):
    """Plays a match, below which all results hold."""
    alone = _first(f, 2 * m + 1, height - 1) >= f.pages
    if height == 1:
        i = 2 * m - len(f.match)
        a, until = _entered(f, i), FOREVER
        b = a if alone else _entered(f, i + 1)
    else:
        a, until = _won(f, 2 * m), f.match[2 * m].until
        b = a if alone else _won(f, 2 * m + 1)
        if not alone:
            until = min(until, f.match[2 * m + 1].until)
    if not alone:
        turned = _key_at(f, b, f.clock) < _key_at(f, a, f.clock)
        until = min(until, _holds(f, a, b, turned, now))
        if turned:
            a = b
    at = f.match[m]
    at.until, at.winner, at.key, at.stamp = until, a.index, a.key, a.stamp


@embedded
def _entered(f, i):
    """The player at an index of `heap`."""
    return Player(np.int64(i), f.heap[i].key, np.int64(f.heap[i].stamp))


@embedded
def _won(f, m):
    """The player who won a match."""
    return Player(np.int64(f.match[m].winner), f.match[m].key, np.int64(f.match[m].stamp))


@embedded
def _holds(f, a, b, turned, now):
    """The clock before which two players that nothing touches keep their order, `turned` if b wins."""
    if f.returns == 1:
        return _bins_hold(f, a, b, turned)
    return holds(f.rank, a.key, np.float64(a.stamp), b.key, np.float64(b.stamp), now)


@embedded
def _bins_hold(f, a, b, turned):
    """As `_holds` where keys change with the bins of idle times, some of which are looked up ahead."""
    clock = f.clock
    for _ in range(AHEAD):
        clock = min(_next_bin(f, a.stamp, clock), _next_bin(f, b.stamp, clock))
        if clock == NEVER:
            return FOREVER
        if (_key_at(f, b, clock) < _key_at(f, a, clock)) != turned:
            break
    return np.float64(clock)


@embedded
def _next_bin(f, stamp, clock):
    """The clock at which the idle time of a page passes into the next bin."""
    following = age_bin(f.age_shift, clock - stamp) + 1
    return NEVER if following == AGES else stamp + (following << f.age_shift)

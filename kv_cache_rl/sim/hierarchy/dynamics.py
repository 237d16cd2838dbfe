"""What a request does: finds its blocks, loads or computes what is missing, touches them, and lets others
give way.

lookup --> hits in the fastest tier | below it: load over the links, or compute if faster | nowhere: compute
       --> touch and enter, last block first (the root ends most recent) --> room is made --> seconds
"""

import numpy as np

from kv_cache_rl.jit import uncounted
from kv_cache_rl.policies.rank import RANK_IDS
from kv_cache_rl.sim.hierarchy import queues
from kv_cache_rl.sim.hierarchy.foresight import learn, predict
from kv_cache_rl.sim.hierarchy.moves import book, enter, leave, make_room
from kv_cache_rl.sim.hierarchy.order import age_bin, rekey, use_class
from kv_cache_rl.sim.hierarchy.reserve import keep_free
from kv_cache_rl.sim.hierarchy.seconds import (
    catch_up,
    compute_seconds,
    faster_to_compute,
    first_byte_seconds,
    read_seconds,
    stall_seconds,
)
from kv_cache_rl.sim.hierarchy.sizes import bytes_of
from kv_cache_rl.sim.hierarchy.state import (
    AGES,
    BEFORE,
    BROUGHT,
    CHAINED,
    CLASSES,
    CLOCK,
    DEMAND,
    DONE,
    FREQUENCY,
    HORIZON,
    KIND,
    LAST,
    LEFT,
    LEVEL,
    LISTED,
    MAX_PREFETCH,
    NONE,
    PEAK,
    PENDING,
    PLACE,
    POLICY,
    POLICY_IDS,
    PREFETCH,
    PREFETCHES,
    PREFETCHING,
    RECENT,
    RECOMPUTE,
    RECOMPUTED,
    RESERVED,
    RING,
    SECONDS,
    SQUEEZED,
    STEPWISE,
    SUCCESSORS,
    TIER,
    TOP,
    USED,
    USEFUL,
    USES,
    WINDOW,
    WRITE,
)

_WINDOWED, _REGRET, _TTL = (RANK_IDS[name] for name in ("windowed_recency", "regret_aware", "ttl"))
_TINYLFU = POLICY_IDS["tinylfu"]
_RELEARN = 16_384


@uncounted
def _remember(s, p):
    """What policies know of an access, before anything moves."""
    s.counters[CLOCK] += 1
    now, policy = s.counters[CLOCK], s.settings[POLICY]
    if policy == _TTL and s.page[p, FREQUENCY] > 0:
        s.density[1, use_class(s, p), age_bin(s, now - s.page[p, LAST])] += 1.0
    if policy == _REGRET:
        if s.regret[p] > 0.0:
            s.regret[p] *= s.reals[1]
        gap = now - s.page[p, LEFT]
        if s.page[p, LEFT] != NONE and gap <= s.settings[HORIZON]:
            s.regret[p] += (s.settings[HORIZON] - gap + 1.0) / s.settings[HORIZON]
        s.page[p, LEFT] = NONE
    s.page[p, FREQUENCY] += 1
    s.page[p, USES] = 1 if s.page[p, TIER] == NONE else s.page[p, USES] + 1
    s.page[p, LAST] = now
    if policy == _TINYLFU:
        queues.count(s, p)
    if policy == _WINDOWED:
        _slide(s, p)
    elif policy == _TTL:
        s.density[2, use_class(s, p), 0] += 1.0
        if now % _RELEARN == 0:
            _relearn(s)


@uncounted
def _slide(s, p):
    at = s.counters[RING]
    gone = s.ring[at]
    s.ring[at] = p
    s.counters[RING] = (at + 1) % s.settings[WINDOW]
    s.page[p, RECENT] += 1
    if gone != NONE:
        s.page[gone, RECENT] -= 1
        if gone != p and s.page[gone, TIER] != NONE and s.page[gone, PLACE] != NONE:
            rekey(s, s.page[gone, TIER], gone)


@uncounted
def _relearn(s):
    """Returns per unit of time yet to be idle, by class and age, from all returns so far, half of which is
    then forgotten.

    Returns count whether or not the page was still here, or what is evicted young would seem never to return.
    """
    for k in range(CLASSES):
        returns, idle = 0.0, 0.0
        away = s.density[2, k, 0]
        for age in range(AGES):
            away -= s.density[1, k, age]
        for age in range(AGES - 1, -1, -1):
            returns += s.density[1, k, age]
            away += s.density[1, k, age]
            idle += max(away, 0.0)
            s.density[0, k, age] = returns / idle if idle > 0.0 else 1.0 / (1.0 + age)
            s.density[1, k, age] *= 0.5
        s.density[2, k, 0] *= 0.5


@uncounted
def _touch(s, p):
    """A page of the fastest tier is used."""
    if s.settings[KIND] == LISTED:
        queues.used(s, TOP, p)
    elif s.page[p, PLACE] != NONE:
        rekey(s, TOP, p)


@uncounted
def _found(s, p, t):
    """Counts where an access was served."""
    s.served[t if t != NONE else len(s.tiers)] += 1
    if s.page[p, PENDING]:
        s.page[p, PENDING] = False
        s.counters[USEFUL] += 1


@uncounted
def _fetch(s, p, t, depth):
    """Asks for a page that is not in the fastest tier: returns seconds of compute, and of waiting for the
    first byte.
    """
    if t == NONE or (s.settings[RECOMPUTE] == 1 and faster_to_compute(s, p, t, depth)):
        if t != NONE:
            s.counters[RECOMPUTED] += 1
        if s.page[p, TIER] > 0:
            leave(s, p)
            s.page[p, LEVEL] = 0
        return compute_seconds(s, p, depth), s.rates[0, WRITE]
    book(s, t, TOP, p, DEMAND)
    return 0.0, first_byte_seconds(s, t)


@uncounted
def _prefetch(s, p):
    """Moves the likeliest successors of a page to the top; returns how many."""
    moved = 0
    for k in range(min(s.settings[MAX_PREFETCH], SUCCESSORS)):
        q = predict(s, p, k)
        if q == NONE or s.page[q, TIER] <= 0:
            continue
        book(s, s.page[q, TIER], TOP, q, PREFETCH)
        leave(s, q)
        _bring(s, TOP, q, PREFETCH)
        s.page[q, PENDING] = True
        s.counters[PREFETCHES] += 1
        moved += 1
    return moved


@uncounted
def _bring(s, t, p, cause):
    """Puts a page that lies nowhere into a tier, in which room is made first: it is never its own victim."""
    if s.settings[KIND] == LISTED:
        queues.announced(s, t, p)
    make_room(s, t, bytes_of(s, p), cause)
    enter(s, t, p)


@uncounted
def _access(s, p):
    """One access of a plain page trace; returns its seconds."""
    t = s.page[p, TIER]
    _remember(s, p)
    _found(s, p, t)
    compute, wait, quiet = 0.0, 0.0, t == 0
    if t == 0:
        _touch(s, p)
    else:
        catch_up(s)
        compute, wait = _fetch(s, p, t, TOP)
    read = read_seconds(s, p)
    if t != 0:
        target = t - 1 if s.settings[STEPWISE] == 1 and s.page[p, TIER] != NONE else TOP
        if s.page[p, TIER] != NONE:
            leave(s, p)
        _bring(s, target, p, DEMAND)
        s.reals[BROUGHT] += bytes_of(s, p)
    if s.settings[PREFETCHING] == 1:
        if s.counters[BEFORE] != NONE:
            learn(s, s.counters[BEFORE], p)
        s.counters[BEFORE] = p
        if quiet:
            catch_up(s)
        quiet &= _prefetch(s, p) == 0
    return compute + wait + read + (0.0 if quiet else stall_seconds(s))


@uncounted
def lru_seconds(s, p, source, moved):
    """Seconds of an access to a page found in `source` when `moved` pages of its size give way, one per tier
    from the top.
    """
    compute, wait = (0.0, 0.0) if source == 0 else _fetch(s, p, source, TOP)
    for t in range(min(moved, len(s.tiers) - 1)):
        book(s, t, t + 1, p, DEMAND)
    return compute + wait + read_seconds(s, p) + (0.0 if source == 0 else stall_seconds(s))


@uncounted
def _request(s, blocks, r):
    """One request of a prefix-tree trace; returns its seconds."""
    n, found, compute, wait, read = len(blocks), 0, 0.0, 0.0, 0.0
    catch_up(s)
    while found < n and s.page[blocks[found], TIER] != NONE:
        found += 1
    for i in range(n - 1, -1, -1):
        p = blocks[i]
        t = s.page[p, TIER] if i < found else NONE  # behind a miss nothing can be used, wherever it lies
        _remember(s, p)
        _found(s, p, t)
        if t == 0:
            s.hits[r] += 1
            read += read_seconds(s, p)
            _touch(s, p)
            continue
        seconds, first_byte = _fetch(s, p, t, i)
        compute += seconds
        wait = max(wait, first_byte)
        read += read_seconds(s, p)
        if s.page[p, TIER] == 0:
            _touch(s, p)
            continue
        if s.page[p, TIER] != NONE:
            leave(s, p)
        if s.settings[KIND] == LISTED:
            queues.announced(s, TOP, p)
        enter(s, TOP, p)
        s.reals[BROUGHT] += bytes_of(s, p)
    make_room(s, TOP, np.int64(0), DEMAND)
    return compute + wait + read + stall_seconds(s)


@uncounted
def advance(s, first, blocks, start, stop):
    """Replays the requests from `start` up to `stop`, whose blocks are ``blocks[first[r]:first[r + 1]]``."""
    for r in range(start, stop):
        if s.settings[RESERVED] != 0:
            catch_up(s)
        if s.settings[CHAINED] == 1:
            seconds = _request(s, blocks[first[r] : first[r + 1]], r)
        else:
            s.hits[r] = s.page[blocks[r], TIER] == 0
            seconds = _access(s, blocks[r])
        if s.settings[RESERVED] != 0:
            seconds += keep_free(s, seconds)
        seconds += s.clocks[SQUEEZED]
        s.clocks[SQUEEZED] = 0.0
        s.latency[r] = seconds
        s.clocks[SECONDS] += seconds + s.reals[2]
        s.counters[DONE] += 1
        for t in range(len(s.tiers)):
            s.tiers[t, PEAK] = max(s.tiers[t, PEAK], s.tiers[t, USED])

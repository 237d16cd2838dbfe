"""Beam search over copies of the simulator.

Failures land up to five windows after their cause, so a node is worth what the best completion from
it earns, not what it has earned so far. Every completion is a whole trajectory and may become the
incumbent.

Most of the time goes into completions, and many are known before they are played: a child made by
the calls that a completion begins with ends where its parent's did, and equal states end
equally."""

import numpy as np

from kv_cache_rl.jit import njit, uncounted
from kv_cache_rl.search.eviction.proposals import alike, complete, new_desk, propose, write
from kv_cache_rl.sim.eviction.columns import CALL, COUNTERS, Counter, constants_of
from kv_cache_rl.sim.eviction.deciders import MAX_OUT
from kv_cache_rl.sim.eviction.dynamics import advance
from kv_cache_rl.sim.eviction.observe import look

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@uncounted
def forget(live):
    """Clears the counters that no later window and no return depends on, so that equal futures are equal."""
    start = len(live) - COUNTERS
    live[start + Counter.CALLS] = 0
    live[start + Counter.INVALID] = 0
    live[start + Counter.TEXT_ONLY] = 0
    live[start + Counter.RECOMPUTED] = 0
    live[start + Counter.EVENTS] = 0


@uncounted
def same(one, other):
    """Whether two buffers of one length hold the same numbers."""
    k = 0
    while k < len(one) and one[k] == other[k]:
        k += 1
    return k == len(one)


@uncounted
def _key(state):
    key = np.uint64(0)
    for k in range(len(state)):
        key = (key ^ np.uint64(state[k])) * _MULTIPLIER
    return key


@uncounted
def _play_child(scn, states, keys, made, calls, desk):
    """Plays one window of child `made`; returns an earlier child that is in the same state now, -1
    if there is none."""
    advance(scn, states[made], calls, desk.results, desk.events, desk.lists)
    forget(states[made])
    keys[made] = _key(states[made])
    for other in range(made):
        if keys[other] == keys[made] and same(states[other], states[made]):
            return other
    return -1


@uncounted
def _offers(scn, state, desk, variants, shipped, allowed, calls, counts):
    """Writes the calls of every proposal in `state`."""
    look(scn, state, desk.rows, desk.head[0], desk.slots, True)
    for k in range(len(variants) + len(shipped)):
        counts[k] = propose(scn, state, desk, k, variants, shipped, allowed)
        write(desk.out, counts[k], calls[k])


@uncounted
def _first_alike(calls, counts, k):
    """The first proposal that makes the same calls as proposal `k`."""
    first = 0
    while not alike(calls[first], counts[first], calls[k], counts[k]):
        first += 1
    return first


@njit
def _extend(logs, log_counts, parents, t, calls, counts):
    """Makes each log of the new nodes its parent's, with the calls that led here in window `t`."""
    old_logs, old_counts = logs.copy(), log_counts.copy()
    for place in range(len(parents)):
        logs[place], log_counts[place] = old_logs[parents[place]], old_counts[parents[place]]
        logs[place, t], log_counts[place, t] = calls[place], counts[place]


@njit(nogil=True)
def search(scn, start, width, variants, shipped, completions, allowed, best_calls, best_counts):
    """Widens every node by every proposal, values the children by completing them, keeps the
    `width` best distinct ones."""
    steps, proposals, desk = constants_of(scn).steps, len(variants) + len(shipped), new_desk(scn)
    nodes, size = np.empty((width, len(start)), np.int64), 1
    logs, log_counts = np.zeros((width, steps, MAX_OUT), CALL), np.zeros((width, steps), np.int64)
    known = np.empty((width, len(completions)))
    most = width * proposals
    children, keys, trial = (
        np.empty((most, len(start)), np.int64),
        np.empty(most, np.uint64),
        np.empty(len(start), np.int64),
    )
    child_calls, child_counts = np.empty((most, MAX_OUT), CALL), np.empty(most, np.int64)
    parents, values, worth = np.empty(most, np.int64), np.empty((most, len(completions))), np.empty(most)
    offers, offer_counts = np.empty((proposals, MAX_OUT), CALL), np.empty(proposals, np.int64)
    calls, counts = np.zeros((steps, MAX_OUT), CALL), np.zeros(steps, np.int64)
    nodes[0], best = start, -np.inf
    for k in range(proposals):
        trial[:] = start
        value = complete(scn, trial, desk, k, variants, shipped, allowed, calls, counts)
        known[0] = np.where(completions == k, value, known[0])
        if value > best:
            best, best_calls[:], best_counts[:] = value, calls, counts
    for t in range(steps):
        made = 0
        for b in range(size):
            _offers(scn, nodes[b], desk, variants, shipped, allowed, offers, offer_counts)
            for k in range(proposals):
                if _first_alike(offers, offer_counts, k) < k:
                    continue
                m = offer_counts[k]
                calls[t], counts[t] = offers[k], m
                child_calls[made], child_counts[made], parents[made] = offers[k], m, b
                children[made] = nodes[b]
                twin = _play_child(scn, children, keys, made, offers[k, :m], desk)
                for c in range(len(completions)):
                    values[made, c] = known[b, c]
                    if twin >= 0:
                        values[made, c] = values[twin, c]
                    elif _first_alike(offers, offer_counts, completions[c]) != k:
                        trial[:] = children[made]
                        value = complete(
                            scn, trial, desk, completions[c], variants, shipped, allowed, calls, counts
                        )
                        values[made, c] = value
                        if value > best:
                            best = value
                            best_calls[:t], best_counts[:t] = logs[b, :t], log_counts[b, :t]
                            best_calls[t:], best_counts[t:] = calls[t:], counts[t:]
                worth[made] = values[made].max()
                made += 1
        order = np.argsort(-worth[:made])[:width]
        size = len(order)
        nodes[:size], known[:size] = children[order], values[order]
        _extend(logs, log_counts, parents[order], t, child_calls[order], child_counts[order])
    return best

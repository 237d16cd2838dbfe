"""Polishing a log: simulated annealing over single calls, and dropping the calls that earn nothing.

A trial differs from the log in a few windows. It is played from the first of them, and only until
it is back in the state that the log was in; so `Course` keeps the state before each window."""

from typing import NamedTuple

import numpy as np

from kv_cache_rl.core.draws import WEYL
from kv_cache_rl.jit import njit, uncounted
from kv_cache_rl.search.eviction.beam import forget, same
from kv_cache_rl.search.eviction.proposals import alike, write
from kv_cache_rl.sim.compiled import mixed, unit
from kv_cache_rl.sim.eviction.actions import Outcome, Verb
from kv_cache_rl.sim.eviction.columns import EVENT, constants_of
from kv_cache_rl.sim.eviction.deciders import MAX_OUT
from kv_cache_rl.sim.eviction.dynamics import advance, new_lists
from kv_cache_rl.sim.eviction.score import total_return
from kv_cache_rl.sim.eviction.spec import MAX_CALLS_PER_STEP


class Course(NamedTuple):
    """The states that a log goes through, and room for those of a trial."""

    states: np.ndarray
    """``[2, steps + 1, A]``;

    `side` says which of the two is the log's, the other is the trial's.
    """
    side: np.ndarray
    results: np.ndarray
    events: np.ndarray
    lists: np.ndarray


@njit(inline="always")
def _course(scn, start):
    states = np.empty((2, constants_of(scn).steps + 1, len(start)), np.int64)
    states[:, 0] = start
    side = np.zeros(constants_of(scn).steps + 1, np.int64)
    return Course(states, side, np.empty(MAX_OUT, np.int64), np.empty(0, EVENT), new_lists(scn))


@uncounted
def _window(scn, course, source, target, calls):
    for k in range(len(source)):
        target[k] = source[k]
    advance(scn, target, calls, course.results, course.events, course.lists)
    forget(target)


@uncounted
def _play(scn, course, calls, counts):
    """Plays a whole log into the course; returns the return."""
    states, side, steps = course.states, course.side, constants_of(scn).steps
    for t in range(steps):
        _window(scn, course, states[side[t], t], states[side[t + 1], t + 1], calls[t, : counts[t]])
    return total_return(scn, states[side[steps], steps])


@uncounted
def _try(scn, course, value, calls, counts, trial, trial_counts):
    """The return of a trial on a log worth `value`, and the windows after which its states replace
    the log's.
    """
    states, side, steps = course.states, course.side, constants_of(scn).steps
    first, last = steps, -1
    for t in range(steps):
        if not alike(calls[t], counts[t], trial[t], trial_counts[t]):
            first, last = min(first, t), t
    if last < 0:
        return value, 0, 0
    t, at = first, side[first]
    while t < steps:
        _window(scn, course, states[at, t], states[1 - side[t + 1], t + 1], trial[t, : trial_counts[t]])
        t += 1
        at = 1 - side[t]
        if t > last and same(states[at, t], states[side[t], t]):
            return value, first + 1, t
    return total_return(scn, states[at, t]), first + 1, t + 1


@uncounted
def _accept(course, begin, end, calls, counts, trial, trial_counts):
    """Makes the trial the log: its states from window `begin` to before `end`, and its calls."""
    for t in range(begin, end):
        course.side[t] = 1 - course.side[t]
    for t in range(len(counts)):
        counts[t] = trial_counts[t]
        write(trial[t], counts[t], calls[t])


@njit(nogil=True)
def anneal(scn, start, value, allowed, windows, seed, best_calls, best_counts):
    """Simulated annealing around the incumbent: one to three changes at a time, as many as
    `windows` whole windows hold."""
    steps, slots = constants_of(scn).steps, constants_of(scn).slots
    rounds = windows // steps
    calls, counts = best_calls.copy(), best_counts.copy()
    trial, trial_counts = calls.copy(), counts.copy()
    course = _course(scn, start)
    _play(scn, course, calls, counts)
    best, here = value, value
    word = np.uint64(seed)
    for r in range(rounds):
        trial[:], trial_counts[:] = calls, counts
        word += WEYL
        for _ in range(1 + np.int64(mixed(word) >> np.uint64(8)) % 3):
            word += WEYL
            _edit(trial, trial_counts, mixed(word), steps, slots, allowed)
        value, begin, end = _try(scn, course, here, calls, counts, trial, trial_counts)
        word += WEYL
        chance = unit(mixed(word))
        temperature = 0.002 * (1.0 - (r + 1) / rounds) ** 2 + 1e-9
        if value >= here - temperature * -np.log(max(chance, 1e-12)):
            here = value
            _accept(course, begin, end, calls, counts, trial, trial_counts)
            if value > best:
                best = value
                best_calls[:], best_counts[:] = trial, trial_counts
    return best


@njit(nogil=True)
def prune(scn, start, value, calls, counts):
    """Drops the calls that were refused, then, last to first, every call without which the return
    is no lower."""
    course = _course(scn, start)
    _drop_refused(scn, start.copy(), course, calls, counts)
    here = _play(scn, course, calls, counts)
    trial, trial_counts = calls.copy(), counts.copy()
    for t in range(constants_of(scn).steps - 1, -1, -1):
        for c in range(counts[t] - 1, -1, -1):
            trial[:], trial_counts[:] = calls, counts
            _remove(trial, trial_counts, t, c)
            without, begin, end = _try(scn, course, here, calls, counts, trial, trial_counts)
            if without >= value:
                value = here = without
                _accept(course, begin, end, calls, counts, trial, trial_counts)


@uncounted
def _drop_refused(scn, state, course, calls, counts):
    for t in range(constants_of(scn).steps):
        advance(scn, state, calls[t, : counts[t]], course.results, course.events, course.lists)
        kept = 0
        for c in range(counts[t]):
            if course.results[c] == Outcome.OK:
                calls[t, kept].verb, calls[t, kept].entry = calls[t, c].verb, calls[t, c].entry
                kept += 1
        counts[t] = kept


@uncounted
def _edit(calls, counts, word, steps, slots, allowed):
    """One change of a log: drop a call, add one, or move one by a window."""
    draw = np.int64(word >> np.uint64(16))
    t, kind, draw = draw % steps, (draw // steps) % 4, draw // (steps * 4)
    if kind == 0:
        _remove(calls, counts, t, draw)
    elif kind < 3:
        verb = Verb.EVICT + draw % 3
        if (allowed >> verb) & 1:
            _insert(calls, counts, t, verb, (draw // 3) % slots)
    elif counts[t] > 0:
        c = draw % counts[t]
        verb, slot = calls[t, c].verb, calls[t, c].entry
        _remove(calls, counts, t, draw)
        _insert(calls, counts, (t + 1 if (draw // 64) % 2 else t - 1) % steps, verb, slot)


@uncounted
def _remove(calls, counts, t, draw):
    if counts[t] > 0:
        c = draw % counts[t]
        for k in range(c, counts[t] - 1):
            calls[t, k].verb, calls[t, k].entry = calls[t, k + 1].verb, calls[t, k + 1].entry
        counts[t] -= 1


@uncounted
def _insert(calls, counts, t, verb, slot):
    if counts[t] < MAX_CALLS_PER_STEP:
        calls[t, counts[t]].verb, calls[t, counts[t]].entry = verb, slot
        counts[t] += 1

"""Who gets in: demand of the waiting, admission in order of arrival, the prefill lane, and how long everyone waits."""

import numpy as np

from kv_cache_rl.jit import njit
from kv_cache_rl.sim.eviction.entries import *
from kv_cache_rl.sim.eviction.spec import WAIT_LIMIT_STEPS
from kv_cache_rl.sim.eviction.state import *
from kv_cache_rl.sim.eviction.state import counters_of, dynamic_of, ledger_of, prefixes_of, static_of, turns_of


@njit
def demand_units(scn, state, i):
    """GPU units a waiting session still needs before it can run."""
    static, dyn, prefixes = static_of(scn), dynamic_of(scn, state), prefixes_of(scn, state)
    turn = turns_of(scn)[static[FIRST_TURN, i] + dyn[TURN, i]]
    tokens = max(turn[CONTEXT] + turn[NEW] + dyn[GENERATED, i], dyn[TOKENS, i])
    units = pages_of(tokens) * (UNITS_PER_PAGE >> dyn[LEVEL, i])
    if dyn[PLACE, i] == ON_GPU:
        units -= units_of(dyn, i)
    p = static[PREFIX, i]
    if p >= 0 and not dyn[REF, i] and prefixes[p, P_REFS] == 0:
        units += prefixes[p, P_PAGES] * UNITS_PER_PAGE
    return units


@njit
def _start(scn, state, events, i):
    """Gives a waiting session its pages, brings its cache back and books the prefill it still needs."""
    static, dyn, prefixes = static_of(scn), dynamic_of(scn, state), prefixes_of(scn, state)
    ledger, counters = ledger_of(scn, state), counters_of(scn, state)
    turn = turns_of(scn)[static[FIRST_TURN, i] + dyn[TURN, i]]
    t, p = counters[T], static[PREFIX, i]
    take(ledger, TIER_GPU, demand_units(scn, state, i))
    if dyn[PLACE, i] == ON_CPU:
        units = units_of(dyn, i)
        give(ledger, TIER_CPU, units)
        counters[LINK_USED] += link_us(scn, units)
        late = counters[LINK_USED]
        counters[LATENCY_US] += late
        dyn[WAIT_US, i] += late
        if late > scn[STEP_US]:
            dyn[BUSY, i] = PAUSED
        note(events, counters, E_SWAPPED_IN, i, late)
    past = 0
    if p >= 0:
        past = prefixes[p, P_TOKENS]
        if not dyn[REF, i]:
            if prefixes[p, P_REFS] == 0:
                work = prefill_us(scn, past, 0)
                dyn[TODO_US, i] += work
                if prefixes[p, P_EVER]:
                    dyn[LOST_US, i] += work
                    counters[RECOMPUTED] += past
                prefixes[p, P_EVER] = 1
            prefixes[p, P_REFS] += 1
            dyn[REF, i] = 1
        # The anchor sees its prefix used.
        anchor = scn[SLOTS] - scn[PREFIXES] + p
        if dyn[PLACE, anchor] == ON_GPU:
            dyn[COUNT, anchor] += 1
            touch(dyn, anchor, t)
    if dyn[GENERATED, i] == 0:
        prompt = turn[CONTEXT] + turn[NEW]
        have = dyn[TOKENS, i]
        lost = max(min(dyn[EVER, i], prompt) - have, 0)
        if prompt > have:
            dyn[TODO_US, i] += prefill_us(scn, prompt - have, past + have)
            dyn[LOST_US, i] += prefill_us(scn, lost, past + have)
            counters[RECOMPUTED] += lost
            dyn[TOKENS, i] = prompt
        dyn[EVER, i] = max(dyn[EVER, i], dyn[TOKENS, i])
    if dyn[PLACE, i] == NOWHERE:
        dyn[BORN, i] = t
        dyn[HOT, i] = 500
        dyn[LAST, i] = t
    dyn[PAGES, i] = pages_of(dyn[TOKENS, i])
    dyn[PLACE, i] = ON_GPU
    dyn[KIND, i] = GENERATION
    dyn[PHASE, i] = PREFILL
    touch(dyn, i, t)
    note(events, counters, E_ADMITTED, i, dyn[TODO_US, i])


@njit
def _first(dyn, sessions, phase, after):
    """Session in `phase` that comes next after order key `after`; -1 if none."""
    best, found = np.int64(1) << 60, -1
    for i in range(sessions):
        if dyn[PHASE, i] == phase and after < dyn[ORDER, i] < best:
            best, found = dyn[ORDER, i], i
    return found


@njit
def admit(scn, state, events):
    """First come, first served: the first that does not fit, or finds the link taken, holds back those behind it."""
    dyn, ledger, counters = dynamic_of(scn, state), ledger_of(scn, state), counters_of(scn, state)
    while True:
        i = _first(dyn, scn[SESSIONS], QUEUED, -(np.int64(1) << 60))
        if i < 0 or demand_units(scn, state, i) > free(ledger, TIER_GPU):
            return
        if dyn[PLACE, i] == ON_CPU and counters[LINK_USED] >= scn[STEP_US]:
            return
        _start(scn, state, events, i)


@njit
def prefill(scn, state):
    """The lane works off cold prefill and recompute in order; waiting for what was lost counts, cold work does not."""
    dyn, counters = dynamic_of(scn, state), counters_of(scn, state)
    used, after = 0, -(np.int64(1) << 60)
    while True:
        i = _first(dyn, scn[SESSIONS], PREFILL, after)
        if i < 0:
            break
        after = dyn[ORDER, i]
        work = min(dyn[TODO_US, i], scn[STEP_US] - used)
        if dyn[LOST_US, i] > 0:
            done = min(dyn[LOST_US, i], work)
            dyn[LOST_US, i] -= done
            dyn[WAIT_US, i] += scn[STEP_US] if dyn[LOST_US, i] > 0 else used + done
        used += work
        dyn[TODO_US, i] -= work
        if dyn[TODO_US, i] == 0:
            dyn[PHASE, i] = DECODE
    counters[PREFILL_BUSY_US] = used


@njit
def wait(scn, state, events):
    """Adds a window to everyone who waits and fails whoever has waited too long; the last window settles the rest."""
    dyn, counters = dynamic_of(scn, state), counters_of(scn, state)
    queue = 0
    for i in range(scn[SESSIONS]):
        phase = dyn[PHASE, i]
        if phase == IDLE:
            continue
        if phase == QUEUED or dyn[BUSY, i] == INTERRUPTED:
            dyn[WAIT_US, i] += scn[STEP_US]
        if dyn[BUSY, i] == INTERRUPTED:
            dyn[BUSY, i] = 0
        if dyn[WAIT_US, i] > WAIT_LIMIT_STEPS * scn[STEP_US]:
            fail(scn, state, events, i, E_WAITED, FAILED_WAIT)
        elif phase == QUEUED:
            queue += 1
    counters[QUEUE_BEFORE] = counters[QUEUE]
    counters[QUEUE] = queue
    if counters[T] == scn[STEPS_] - 1:
        _settle(scn, state, events)


@njit
def _settle(scn, state, events):
    """Unfinished turns are not free at the end: whatever was decoded too coarsely has failed, and so has whoever waited a
    full window and got nothing for it (whoever still stands in the lane with cold work has not). The cache stays."""
    dyn, counters = dynamic_of(scn, state), counters_of(scn, state)
    for i in range(scn[SESSIONS]):
        phase = dyn[PHASE, i]
        if phase == IDLE:
            continue
        empty = phase == QUEUED or (dyn[GENERATED, i] == 0 and (phase == DECODE or dyn[LOST_US, i] > 0))
        if dyn[SPOILED, i]:
            _count(events, counters, i, E_WRONG, FAILED_INT8 if dyn[SPOILED, i] == 1 else FAILED_INT4)
        elif empty and dyn[WAIT_US, i] > scn[STEP_US]:
            _count(events, counters, i, E_UNSERVED, FAILED_END)


@njit
def _count(events, counters, i, why, counter):
    counters[FAILURES] += 1
    counters[counter] += 1
    note(events, counters, why, i, 0)

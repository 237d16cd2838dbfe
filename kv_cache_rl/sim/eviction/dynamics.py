"""What one window does to the cache: calls, decode, completions, arrivals, admission, prefill, waiting,
overflow.

One compiled implementation for the live episode, the vectorised environment and the search.
"""

import numpy as np

from kv_cache_rl.jit import njit, uncounted
from kv_cache_rl.sim.compiled import free, take
from kv_cache_rl.sim.eviction.admission import admit, prefill, wait
from kv_cache_rl.sim.eviction.entries import *
from kv_cache_rl.sim.eviction.spec import MAX_CALLS_PER_STEP
from kv_cache_rl.sim.eviction.state import *
from kv_cache_rl.sim.eviction.state import columns_of

KEEP, EVICT, COMPRESS, SWAP, UNREADABLE = range(5)
(OK, UNKNOWN, ABSENT, AT_LOWEST, IS_ON_CPU, CPU_FULL, LINK_BUSY, SHARED_ONLY, TOO_MANY, NOT_READ) = range(10)


@uncounted
def _evict(c, i):
    dyn, counters = c.dyn, c.counters
    priority = c.static[PRIORITY, i]
    if dyn[KIND, i] == SYSTEM:
        counters[RISKY] += 30
    elif dyn[KIND, i] == CONTEXT_KIND and priority >= 500:
        counters[RISKY] += 15
    elif dyn[KIND, i] == GENERATION and priority >= 700 and progress(c, i) >= 700:
        counters[RISKY] += 20
    if dyn[PHASE, i] >= QUEUED:
        counters[RECOMPUTED] += dyn[GENERATED, i]
        dyn[PHASE, i] = QUEUED
        dyn[KIND, i] = CONTEXT_KIND
        dyn[SPOILED, i] = 0
        dyn[GENERATED, i] = 0
        dyn[TODO_US, i] = 0
        dyn[LOST_US, i] = 0
    release(c, i)


@uncounted
def _call(scn, c, verb, i):
    """Carries out one tool call or says why it changes nothing."""
    if verb == KEEP:
        return OK
    if verb == UNREADABLE:
        return NOT_READ
    if i < 0 or i >= scn[SLOTS]:
        return UNKNOWN
    dyn, ledger, counters = c.dyn, c.ledger, c.counters
    if dyn[PLACE, i] == NOWHERE:
        return ABSENT
    if verb == EVICT:
        _evict(c, i)
        return OK
    if dyn[PAGES, i] == 0:
        return SHARED_ONLY
    if dyn[PLACE, i] == ON_CPU:
        return IS_ON_CPU
    units = units_of(dyn, i)
    if verb == COMPRESS:
        if dyn[LEVEL, i] == 2:
            return AT_LOWEST
        dyn[LEVEL, i] += 1
        dyn[BUSY, i] = PAUSED
        give(ledger, TIER_GPU, units - units_of(dyn, i))
        return OK
    if units > free(ledger, TIER_CPU):
        return CPU_FULL
    if counters[LINK_USED] >= scn[STEP_US]:
        return LINK_BUSY
    counters[LINK_USED] += link_us(scn, units)
    give(ledger, TIER_GPU, units)
    take(ledger, TIER_CPU, units)
    dyn[PLACE, i] = ON_CPU
    if dyn[PHASE, i] > QUEUED:
        dyn[PHASE, i] = QUEUED
        dyn[BUSY, i] = INTERRUPTED
    return OK


@uncounted
def _in_use(dyn, sessions, active):
    """Writes the sessions that are not idle into `active`, in slot order; returns how many.

    Written without a branch: which sessions run follows no pattern a processor could predict.
    """
    n = 0
    for i in range(sessions):
        active[n] = i
        n += dyn[PHASE, i] != IDLE
    return n


@uncounted
def _run(c, events, active, n):
    """Decodes a window's tokens of whoever runs, and completes whoever has reached its target."""
    static, dyn, turns = c.static, c.dyn, c.turns
    t = c.counters[T]
    for a in range(n):
        i = active[a]
        if dyn[PHASE, i] != DECODE:
            continue
        k = static[FIRST_TURN, i] + dyn[TURN, i]
        if dyn[BUSY, i] == 0:
            grown = min(static[RATE, i], turns[k, OUT] - dyn[GENERATED, i])
            before = units_of(dyn, i)
            dyn[GENERATED, i] += grown
            dyn[TOKENS, i] += grown
            dyn[PAGES, i] = pages_of(dyn[TOKENS, i])
            take(c.ledger, TIER_GPU, units_of(dyn, i) - before)
            if dyn[LEVEL, i] > static[TOLERANCE, i]:
                dyn[SPOILED, i] = max(dyn[SPOILED, i], dyn[LEVEL, i])
            touch(dyn, i, t)
        if dyn[GENERATED, i] < turns[k, OUT]:
            continue
        if dyn[SPOILED, i]:
            fail(c, events, i, E_WRONG, FAILED_INT8 if dyn[SPOILED, i] == 1 else FAILED_INT4)
        else:
            _complete(c, events, i, k)


@uncounted
def _complete(c, events, i, k):
    """The answer of turn `k` is out: its session goes idle, and what nobody will read again becomes an entry
    of its own.
    """
    dyn, turns, counters = c.dyn, c.turns, c.counters
    counters[TOKENS_DONE] += turns[k, OUT]
    counters[COMPLETED] += 1
    note(events, counters, E_COMPLETED, i, turns[k, OUT])
    dyn[PHASE, i] = IDLE
    dyn[KIND, i] = turns[k, LEAVES]
    dyn[TURN, i] += 1
    after, d = turns[k, AFTER], turns[k, DEAD_SLOT]
    kept = pages_of(after)
    if d >= 0 and dyn[PAGES, i] > kept:
        dyn[KIND, d] = REASONING if turns[k, DEAD_KIND] == 1 else EPHEMERAL
        dyn[PLACE, d] = ON_GPU
        dyn[LEVEL, d] = dyn[LEVEL, i]
        dyn[TOKENS, d] = dyn[TOKENS, i] - after
        dyn[PAGES, d] = dyn[PAGES, i] - kept
        dyn[LAST, d] = dyn[BORN, d] = counters[T]
        dyn[COUNT, d] = 1
        dyn[HOT, d] = dyn[HOT, i]
        dyn[PAGES, i] = kept
        dyn[TOKENS, i] = after
    dyn[EVER, i] = dyn[TOKENS, i]


@uncounted
def _drop_stale(c, i, context):
    """Frees what no longer matches the prompt of the turn that arrives: its agent cut or rewrote the history."""
    dyn = c.dyn
    if dyn[PLACE, i] != NOWHERE and dyn[TOKENS, i] > context:
        before = units_of(dyn, i)
        dyn[TOKENS, i] = context
        dyn[PAGES, i] = pages_of(context)
        give(c.ledger, TIER_GPU if dyn[PLACE, i] == ON_GPU else TIER_CPU, before - units_of(dyn, i))
    dyn[EVER, i] = min(dyn[EVER, i], context)


@uncounted
def _arrive(c, events, sessions):
    static, dyn, turns, counters = c.static, c.dyn, c.turns, c.counters
    t = counters[T]
    for i in range(sessions):
        # Ordered so that what decides most often, and is easiest to predict, comes first.
        if dyn[TURN, i] >= static[NUM_TURNS, i]:
            continue
        k = static[FIRST_TURN, i] + dyn[TURN, i]
        if turns[k, ARRIVE] > t or dyn[PHASE, i] != IDLE:
            continue
        dyn[PHASE, i] = QUEUED
        dyn[GENERATED, i] = 0
        dyn[TODO_US, i] = 0
        dyn[LOST_US, i] = 0
        dyn[WAIT_US, i] = 0
        dyn[SPOILED, i] = 0
        _drop_stale(c, i, turns[k, CONTEXT])
        dyn[ORDER, i] = turns[k, ARRIVE] * 1024 + i
        dyn[COUNT, i] += 1
        if dyn[PLACE, i] != NOWHERE:
            touch(dyn, i, t)
        counters[ARRIVED] += 1
        note(events, counters, E_ARRIVED, i, turns[k, NEW])


@uncounted
def _overflow(c, events, active, n):
    static, dyn = c.static, c.dyn
    while free(c.ledger, TIER_GPU) < 0:
        victim = -1
        for a in range(n):
            i = active[a]
            if dyn[PLACE, i] == ON_GPU and dyn[PHASE, i] >= PREFILL:
                if (
                    victim < 0
                    or static[PRIORITY, i] < static[PRIORITY, victim]
                    or (
                        static[PRIORITY, i] == static[PRIORITY, victim] and dyn[ORDER, i] > dyn[ORDER, victim]
                    )
                ):
                    victim = i
        if victim < 0:
            return
        fail(c, events, victim, E_PREEMPTED, PREEMPTED)


@uncounted
def _book(scn, counters, peak):
    """Counts the window: its peak, its link, and what its headroom earns."""
    budget = scn[BUDGET]
    counters[PEAK] = peak
    counters[LINK_BUSY_US] = min(counters[LINK_USED], scn[STEP_US])
    if peak * 20 > budget * 19:
        counters[ABOVE_95] += 1
    if peak * 5 < budget * 4:
        counters[HEADROOM] += 10
    elif peak * 20 < budget * 19:
        counters[HEADROOM] += 5
    elif peak < budget:
        counters[HEADROOM] += 2
    else:
        counters[HEADROOM] -= 5
    counters[T] += 1


@uncounted
def advance(scn, state, calls, results, events, lists):
    """Plays one window like `step`; `lists`, int64 ``[2, sessions + 1]``, is its scratch paper."""
    c = columns_of(scn, state)
    counters, dyn, sessions = c.counters, c.dyn, scn[SESSIONS]
    active, chosen = lists[0], lists[1]
    counters[EVENTS] = 0
    counters[LINK_USED] = max(counters[LINK_USED] - scn[STEP_US], 0)
    if len(calls) == 0:
        counters[TEXT_ONLY] += 1
    for k in range(len(calls)):
        code = _call(scn, c, calls[k, 0], calls[k, 1]) if k < MAX_CALLS_PER_STEP else TOO_MANY
        results[k] = code
        counters[CALLS] += 1
        counters[INVALID] += code != OK
    _run(c, events, active, _in_use(dyn, sessions, active))
    for i in range(sessions):
        dyn[BUSY, i] = 0 if dyn[BUSY, i] == PAUSED else dyn[BUSY, i]
    _arrive(c, events, sessions)
    n = _in_use(dyn, sessions, active)
    admit(scn, c, events, active, n, chosen)
    prefill(scn, c, active, n, chosen)
    peak = c.ledger[TIER_GPU, 1]
    wait(scn, c, events, active, n)
    _overflow(c, events, active, n)
    _book(scn, counters, peak)


@njit
def step(scn, state, calls, results, events):
    """Plays one window.

    Args:
        scn, state: packed buffers; `state` is advanced in place.
        calls: int64 ``[K, 2]``, verb and slot (-1: no such id) in the order given.
        results: int64 ``[K]``, receives what became of each call (`OK` or the reason it was refused).
        events: int64 ``[E, 3]``, receives (what, slot, value) of up to E events; E = 0 records none.
    """
    advance(scn, state, calls, results, events, new_lists(scn))


@njit
def new_lists(scn):
    """Scratch paper for `advance`."""
    return np.empty((2, scn[SESSIONS] + 1), np.int64)

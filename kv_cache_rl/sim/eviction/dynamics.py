"""What one window does to the cache: calls, decode, completions, arrivals, admission, prefill, waiting, overflow.

One compiled implementation for the live episode, the vectorised environment and the search.
"""

from kv_cache_rl.jit import njit
from kv_cache_rl.sim.eviction.admission import admit, prefill, wait
from kv_cache_rl.sim.eviction.entries import *
from kv_cache_rl.sim.eviction.spec import MAX_CALLS_PER_STEP
from kv_cache_rl.sim.eviction.state import *
from kv_cache_rl.sim.eviction.state import counters_of, dynamic_of, ledger_of, static_of, turns_of

KEEP, EVICT, COMPRESS, SWAP, UNREADABLE = range(5)
(OK, UNKNOWN, ABSENT, AT_LOWEST, IS_ON_CPU, CPU_FULL, LINK_BUSY, SHARED_ONLY, TOO_MANY, NOT_READ) = range(10)


@njit
def _evict(scn, state, i):
    dyn, counters = dynamic_of(scn, state), counters_of(scn, state)
    priority = static_of(scn)[PRIORITY, i]
    if dyn[KIND, i] == SYSTEM:
        counters[RISKY] += 30
    elif dyn[KIND, i] == CONTEXT_KIND and priority >= 500:
        counters[RISKY] += 15
    elif dyn[KIND, i] == GENERATION and priority >= 700 and progress(scn, dyn, i) >= 700:
        counters[RISKY] += 20
    if dyn[PHASE, i] >= QUEUED:
        counters[RECOMPUTED] += dyn[GENERATED, i]
        dyn[PHASE, i] = QUEUED
        dyn[KIND, i] = CONTEXT_KIND
        dyn[SPOILED, i] = 0
        dyn[GENERATED, i] = 0
        dyn[TODO_US, i] = 0
        dyn[LOST_US, i] = 0
    release(scn, state, i)


@njit
def _call(scn, state, verb, i):
    """Carries out one tool call or says why it changes nothing."""
    if verb == KEEP:
        return OK
    if verb == UNREADABLE:
        return NOT_READ
    if i < 0 or i >= scn[SLOTS]:
        return UNKNOWN
    dyn, ledger, counters = dynamic_of(scn, state), ledger_of(scn, state), counters_of(scn, state)
    if dyn[PLACE, i] == NOWHERE:
        return ABSENT
    if verb == EVICT:
        _evict(scn, state, i)
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


@njit
def _decode(scn, state):
    static, turns, dyn, t = static_of(scn), turns_of(scn), dynamic_of(scn, state), counters_of(scn, state)[T]
    for i in range(scn[SESSIONS]):
        if dyn[PHASE, i] == DECODE and dyn[BUSY, i] == 0:
            left = turns[static[FIRST_TURN, i] + dyn[TURN, i], OUT] - dyn[GENERATED, i]
            grown = min(static[RATE, i], left)
            before = units_of(dyn, i)
            dyn[GENERATED, i] += grown
            dyn[TOKENS, i] += grown
            dyn[PAGES, i] = pages_of(dyn[TOKENS, i])
            take(ledger_of(scn, state), TIER_GPU, units_of(dyn, i) - before)
            if dyn[LEVEL, i] > static[TOLERANCE, i]:
                dyn[SPOILED, i] = max(dyn[SPOILED, i], dyn[LEVEL, i])
            touch(dyn, i, t)
        if dyn[BUSY, i] == PAUSED:
            dyn[BUSY, i] = 0


@njit
def _complete(scn, state, events):
    static, turns, dyn, counters = static_of(scn), turns_of(scn), dynamic_of(scn, state), counters_of(scn, state)
    for i in range(scn[SESSIONS]):
        if dyn[PHASE, i] != DECODE:
            continue
        turn = turns[static[FIRST_TURN, i] + dyn[TURN, i]]
        if dyn[GENERATED, i] < turn[OUT]:
            continue
        if dyn[SPOILED, i]:
            fail(scn, state, events, i, E_WRONG, FAILED_INT8 if dyn[SPOILED, i] == 1 else FAILED_INT4)
            continue
        counters[TOKENS_DONE] += turn[OUT]
        counters[COMPLETED] += 1
        note(events, counters, E_COMPLETED, i, turn[OUT])
        dyn[PHASE, i] = IDLE
        dyn[KIND, i] = turn[LEAVES]
        dyn[TURN, i] += 1
        kept = pages_of(turn[AFTER])
        if turn[DEAD_SLOT] >= 0 and dyn[PAGES, i] > kept:
            d = turn[DEAD_SLOT]
            dyn[KIND, d] = REASONING if turn[DEAD_KIND] == 1 else EPHEMERAL
            dyn[PLACE, d] = ON_GPU
            dyn[LEVEL, d] = dyn[LEVEL, i]
            dyn[TOKENS, d] = dyn[TOKENS, i] - turn[AFTER]
            dyn[PAGES, d] = dyn[PAGES, i] - kept
            dyn[LAST, d] = dyn[BORN, d] = counters[T]
            dyn[COUNT, d] = 1
            dyn[HOT, d] = dyn[HOT, i]
            dyn[PAGES, i] = kept
            dyn[TOKENS, i] = turn[AFTER]
        dyn[EVER, i] = dyn[TOKENS, i]


@njit
def _drop_stale(scn, state, i, context):
    """Frees what no longer matches the prompt of the turn that arrives: its agent cut or rewrote the history."""
    dyn = dynamic_of(scn, state)
    if dyn[PLACE, i] != NOWHERE and dyn[TOKENS, i] > context:
        before = units_of(dyn, i)
        dyn[TOKENS, i] = context
        dyn[PAGES, i] = pages_of(context)
        give(ledger_of(scn, state), TIER_GPU if dyn[PLACE, i] == ON_GPU else TIER_CPU, before - units_of(dyn, i))
    dyn[EVER, i] = min(dyn[EVER, i], context)


@njit
def _arrive(scn, state, events):
    static, turns, dyn, counters = static_of(scn), turns_of(scn), dynamic_of(scn, state), counters_of(scn, state)
    t = counters[T]
    for i in range(scn[SESSIONS]):
        first = static[FIRST_TURN, i]
        if dyn[PHASE, i] != IDLE or dyn[TURN, i] >= static[NUM_TURNS, i]:
            continue
        turn = turns[first + dyn[TURN, i]]
        if turn[ARRIVE] > t:
            continue
        dyn[PHASE, i] = QUEUED
        dyn[GENERATED, i] = 0
        dyn[TODO_US, i] = 0
        dyn[LOST_US, i] = 0
        dyn[WAIT_US, i] = 0
        dyn[SPOILED, i] = 0
        _drop_stale(scn, state, i, turn[CONTEXT])
        dyn[ORDER, i] = turn[ARRIVE] * 1024 + i
        dyn[COUNT, i] += 1
        if dyn[PLACE, i] != NOWHERE:
            touch(dyn, i, t)
        counters[ARRIVED] += 1
        note(events, counters, E_ARRIVED, i, turn[NEW])


@njit
def _overflow(scn, state, events):
    static, dyn = static_of(scn), dynamic_of(scn, state)
    while free(ledger_of(scn, state), TIER_GPU) < 0:
        victim = -1
        for i in range(scn[SESSIONS]):
            if dyn[PLACE, i] == ON_GPU and dyn[PHASE, i] >= PREFILL:
                if (
                    victim < 0
                    or static[PRIORITY, i] < static[PRIORITY, victim]
                    or (static[PRIORITY, i] == static[PRIORITY, victim] and dyn[ORDER, i] > dyn[ORDER, victim])
                ):
                    victim = i
        if victim < 0:
            return
        fail(scn, state, events, victim, E_PREEMPTED, PREEMPTED)


@njit
def step(scn, state, calls, results, events):
    """Plays one window.

    Args:
        scn, state: packed buffers; `state` is advanced in place.
        calls: int64 ``[K, 2]``, verb and slot (-1: no such id) in the order given.
        results: int64 ``[K]``, receives what became of each call (`OK` or the reason it was refused).
        events: int64 ``[E, 3]``, receives (what, slot, value) of up to E events; E = 0 records none.
    """
    counters, ledger = counters_of(scn, state), ledger_of(scn, state)
    counters[EVENTS] = 0
    counters[LINK_USED] = max(counters[LINK_USED] - scn[STEP_US], 0)
    if len(calls) == 0:
        counters[TEXT_ONLY] += 1
    for k in range(len(calls)):
        code = _call(scn, state, calls[k, 0], calls[k, 1]) if k < MAX_CALLS_PER_STEP else TOO_MANY
        results[k] = code
        counters[CALLS] += 1
        counters[INVALID] += code != OK
    _decode(scn, state)
    _complete(scn, state, events)
    _arrive(scn, state, events)
    admit(scn, state, events)
    prefill(scn, state)
    peak = ledger[TIER_GPU, 1]
    counters[PEAK] = peak
    wait(scn, state, events)
    _overflow(scn, state, events)
    counters[LINK_BUSY_US] = min(counters[LINK_USED], scn[STEP_US])
    budget = scn[BUDGET]
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

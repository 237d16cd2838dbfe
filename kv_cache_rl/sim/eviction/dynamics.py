"""What one window does to the cache: calls, decode, completions, arrivals, admission, prefill, waiting, overflow.

One compiled implementation for the live episode, the vectorised environment and the search.
"""

import numpy as np

from kv_cache_rl.core import pool
from kv_cache_rl.jit import njit
from kv_cache_rl.sim.eviction.spec import MAX_CALLS_PER_STEP, PAGE_TOKENS, WAIT_LIMIT_STEPS
from kv_cache_rl.sim.eviction.state import *
from kv_cache_rl.sim.eviction.state import counters_of, dynamic_of, ledger_of, prefixes_of, static_of, turns_of

KEEP, EVICT, COMPRESS, SWAP, UNREADABLE = range(5)
(OK, UNKNOWN, ABSENT, AT_LOWEST, IS_ON_CPU, CPU_FULL, LINK_BUSY, SHARED_ONLY, TOO_MANY, NOT_READ) = range(10)
(E_ARRIVED, E_ADMITTED, E_COMPLETED, E_WAITED, E_WRONG, E_PREEMPTED, E_SWAPPED_IN, E_UNSERVED) = range(8)

_take = njit(inline="always")(pool.take)
_give = njit(inline="always")(pool.give)
_free = njit(inline="always")(pool.free)


@njit(inline="always")
def pages_of(tokens):
    return (tokens + PAGE_TOKENS - 1) // PAGE_TOKENS


@njit(inline="always")
def units_of(dyn, i):
    """Quarter pages of the entry's own pages, wherever they are."""
    return dyn[PAGES, i] * (UNITS_PER_PAGE >> dyn[LEVEL, i])


@njit(inline="always")
def prefill_us(scn, tokens, past):
    """Microseconds of the prefill lane for `tokens` behind `past`."""
    return (tokens * scn[C1_NS] + tokens * (past + tokens // 2) // 1000 * scn[C2_PS]) // 1000


@njit(inline="always")
def link_us(scn, units):
    return scn[LINK_FIXED] + units * scn[LINK_NS] // 1000


@njit
def hotness(dyn, i, t):
    """Recency-weighted use in parts per thousand: loses 30 % per window without access."""
    hot = dyn[HOT, i]
    for _ in range(min(t - dyn[LAST, i], 24)):
        hot = hot * 7 // 10
    return hot


@njit
def progress(scn, dyn, i):
    """Share of its target a generating sequence has reached, parts per thousand; 0 for anything else."""
    if dyn[PHASE, i] < QUEUED or dyn[KIND, i] != GENERATION:
        return 0
    turn = turns_of(scn)[static_of(scn)[FIRST_TURN, i] + dyn[TURN, i]]
    return 1000 * dyn[GENERATED, i] // turn[OUT]


@njit
def eviction_value(scn, dyn, i, t):
    """0 (worst to evict) to 1000 (safest): base of the block type, corrected for hotness, priority and progress."""
    kind = dyn[KIND, i]
    base = 0
    if kind == CONTEXT_KIND or kind == TOOL_RESULT:
        base = 250
    elif kind == GENERATION:
        base = 500
    elif kind == REASONING:
        base = 900
    elif kind == EPHEMERAL:
        base = 1000
    # In hundredths of a part per thousand, so that the three corrections stay exact.
    value = 100 * base - 15 * (hotness(dyn, i, t) - 500) - 15 * (static_of(scn)[PRIORITY, i] - 500)
    value -= 10 * progress(scn, dyn, i)
    return min(max(value // 100, 0), 1000)


@njit
def _touch(dyn, i, t):
    dyn[HOT, i] = hotness(dyn, i, t)
    dyn[HOT, i] += (1000 - dyn[HOT, i]) * 3 // 10
    dyn[LAST, i] = t


@njit
def _drop_prefix(scn, state, i):
    dyn, prefixes = dynamic_of(scn, state), prefixes_of(scn, state)
    if dyn[REF, i]:
        p = static_of(scn)[PREFIX, i]
        dyn[REF, i] = 0
        prefixes[p, P_REFS] -= 1
        if prefixes[p, P_REFS] == 0:
            _give(ledger_of(scn, state), TIER_GPU, prefixes[p, P_PAGES] * UNITS_PER_PAGE)


@njit
def _release(scn, state, i):
    """Takes everything the entry holds away from it."""
    dyn = dynamic_of(scn, state)
    if dyn[PLACE, i] != NOWHERE:
        _give(ledger_of(scn, state), TIER_GPU if dyn[PLACE, i] == ON_GPU else TIER_CPU, units_of(dyn, i))
    _drop_prefix(scn, state, i)
    dyn[PLACE, i] = NOWHERE
    dyn[TOKENS, i] = 0
    dyn[PAGES, i] = 0
    dyn[LEVEL, i] = 0


@njit
def _event(events, counters, what, slot, value):
    if counters[EVENTS] < len(events):
        events[counters[EVENTS], 0] = what
        events[counters[EVENTS], 1] = slot
        events[counters[EVENTS], 2] = value
        counters[EVENTS] += 1


@njit
def _fail(scn, state, events, i, why, counter):
    """The current turn is lost, and so is what its session had cached: the next turn comes with a cold context."""
    dyn, counters = dynamic_of(scn, state), counters_of(scn, state)
    _release(scn, state, i)
    dyn[PHASE, i] = IDLE
    dyn[KIND, i] = CONTEXT_KIND
    dyn[TURN, i] += 1
    counters[FAILURES] += 1
    counters[counter] += 1
    _event(events, counters, why, i, dyn[WAIT_US, i])


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
        dyn[GENERATED, i] = 0
        dyn[TODO_US, i] = 0
        dyn[LOST_US, i] = 0
    _release(scn, state, i)


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
        dyn[BUSY, i] = 1
        _give(ledger, TIER_GPU, units - units_of(dyn, i))
        return OK
    if units > _free(ledger, TIER_CPU):
        return CPU_FULL
    if counters[LINK_USED] >= scn[STEP_US]:
        return LINK_BUSY
    counters[LINK_USED] += link_us(scn, units)
    _give(ledger, TIER_GPU, units)
    _take(ledger, TIER_CPU, units)
    dyn[PLACE, i] = ON_CPU
    if dyn[PHASE, i] >= QUEUED:
        dyn[PHASE, i] = QUEUED
    return OK


@njit
def _decode(scn, state):
    static, turns, dyn, t = static_of(scn), turns_of(scn), dynamic_of(scn, state), counters_of(scn, state)[T]
    for i in range(scn[SESSIONS]):
        if dyn[PHASE, i] == DECODE and not dyn[BUSY, i]:
            left = turns[static[FIRST_TURN, i] + dyn[TURN, i], OUT] - dyn[GENERATED, i]
            grown = min(static[RATE, i], left)
            before = units_of(dyn, i)
            dyn[GENERATED, i] += grown
            dyn[TOKENS, i] += grown
            dyn[PAGES, i] = pages_of(dyn[TOKENS, i])
            _take(ledger_of(scn, state), TIER_GPU, units_of(dyn, i) - before)
            if dyn[LEVEL, i] > static[TOLERANCE, i]:
                dyn[SPOILED, i] = max(dyn[SPOILED, i], dyn[LEVEL, i])
            _touch(dyn, i, t)
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
            counters[FAILURES] += 1
            counters[FAILED_INT8 if dyn[SPOILED, i] == 1 else FAILED_INT4] += 1
            _event(events, counters, E_WRONG, i, dyn[SPOILED, i])
        else:
            counters[TOKENS_DONE] += turn[OUT]
            counters[COMPLETED] += 1
            _event(events, counters, E_COMPLETED, i, turn[OUT])
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
        dyn[ORDER, i] = turn[ARRIVE] * 1024 + i
        dyn[COUNT, i] += 1
        if dyn[PLACE, i] != NOWHERE:
            _touch(dyn, i, t)
        counters[ARRIVED] += 1
        _event(events, counters, E_ARRIVED, i, turn[NEW])


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
    _take(ledger, TIER_GPU, demand_units(scn, state, i))
    if dyn[PLACE, i] == ON_CPU:
        units = units_of(dyn, i)
        _give(ledger, TIER_CPU, units)
        counters[LINK_USED] += link_us(scn, units)
        late = counters[LINK_USED]
        counters[LATENCY_US] += late
        dyn[WAIT_US, i] += late
        dyn[BUSY, i] = 1 if late > scn[STEP_US] else 0
        _event(events, counters, E_SWAPPED_IN, i, late)
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
            _touch(dyn, anchor, t)
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
    _touch(dyn, i, t)
    _event(events, counters, E_ADMITTED, i, dyn[TODO_US, i])


@njit
def _first(dyn, sessions, phase, after):
    """Session in `phase` that comes next after order key `after`; -1 if none."""
    best, found = np.int64(1) << 60, -1
    for i in range(sessions):
        if dyn[PHASE, i] == phase and after < dyn[ORDER, i] < best:
            best, found = dyn[ORDER, i], i
    return found


@njit
def _admit(scn, state, events):
    """First come, first served: the first that does not fit, or finds the link taken, holds back those behind it."""
    dyn, ledger, counters = dynamic_of(scn, state), ledger_of(scn, state), counters_of(scn, state)
    while True:
        i = _first(dyn, scn[SESSIONS], QUEUED, -(np.int64(1) << 60))
        if i < 0 or demand_units(scn, state, i) > _free(ledger, TIER_GPU):
            return
        if dyn[PLACE, i] == ON_CPU and counters[LINK_USED] >= scn[STEP_US]:
            return
        _start(scn, state, events, i)


@njit
def _prefill(scn, state):
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
def _wait(scn, state, events):
    dyn, counters = dynamic_of(scn, state), counters_of(scn, state)
    queue = 0
    last_window = counters[T] == scn[STEPS_] - 1
    for i in range(scn[SESSIONS]):
        phase = dyn[PHASE, i]
        if phase != QUEUED and phase != PREFILL:
            continue
        if phase == QUEUED:
            dyn[WAIT_US, i] += scn[STEP_US]
        if dyn[WAIT_US, i] > WAIT_LIMIT_STEPS * scn[STEP_US]:
            _fail(scn, state, events, i, E_WAITED, FAILED_WAIT)
        elif phase == QUEUED:
            queue += 1
            # Nobody is served by the end of the episode: whoever has waited a full window by then has failed.
            if last_window and dyn[WAIT_US, i] > scn[STEP_US]:
                _fail(scn, state, events, i, E_UNSERVED, FAILED_END)
    counters[QUEUE_BEFORE] = counters[QUEUE]
    counters[QUEUE] = queue


@njit
def _overflow(scn, state, events):
    static, dyn = static_of(scn), dynamic_of(scn, state)
    while _free(ledger_of(scn, state), TIER_GPU) < 0:
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
        _fail(scn, state, events, victim, E_PREEMPTED, PREEMPTED)


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
    _admit(scn, state, events)
    _prefill(scn, state)
    _wait(scn, state, events)
    peak = ledger[TIER_GPU, 1]
    counters[PEAK] = peak
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

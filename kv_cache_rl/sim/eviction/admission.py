"""Who gets in: demand of the waiting, admission in order of arrival, the prefill lane, and how long everyone
waits.
"""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.compiled import free, take
from kv_cache_rl.sim.eviction.entries import *
from kv_cache_rl.sim.eviction.spec import WAIT_LIMIT_STEPS
from kv_cache_rl.sim.eviction.state import *
from kv_cache_rl.sim.eviction.state import columns_of


@uncounted
def demand(c, i):
    """GPU units a waiting session still needs before it can run."""
    static, dyn = c.static, c.dyn
    k = static[FIRST_TURN, i] + dyn[TURN, i]
    tokens = max(c.turns[k, CONTEXT] + c.turns[k, NEW] + dyn[GENERATED, i], dyn[TOKENS, i])
    units = pages_of(tokens) * (UNITS_PER_PAGE >> dyn[LEVEL, i])
    if dyn[PLACE, i] == ON_GPU:
        units -= units_of(dyn, i)
    p = static[PREFIX, i]
    if p >= 0 and not dyn[REF, i] and c.prefixes[p, P_REFS] == 0:
        units += c.prefixes[p, P_PAGES] * UNITS_PER_PAGE
    return units


@uncounted
def demand_units(scn, state, i):
    """`demand` of a session in packed buffers."""
    return demand(columns_of(scn, state), i)


@uncounted
def _fetch(scn, c, events, i):
    """Brings a cache back over the link, behind whatever crosses it already."""
    units = units_of(c.dyn, i)
    give(c.ledger, TIER_CPU, units)
    c.counters[LINK_USED] += link_us(scn, units)
    late = c.counters[LINK_USED]
    c.counters[LATENCY_US] += late
    c.dyn[WAIT_US, i] += late
    if late > scn[STEP_US]:
        c.dyn[BUSY, i] = PAUSED
    note(events, c.counters, E_SWAPPED_IN, i, late)


@uncounted
def _attach(scn, c, i, p):
    """Gives a session its shared prefix, computed anew if nobody holds it."""
    dyn, prefixes, counters = c.dyn, c.prefixes, c.counters
    if not dyn[REF, i]:
        if prefixes[p, P_REFS] == 0:
            work = prefill_us(scn, prefixes[p, P_TOKENS], 0)
            dyn[TODO_US, i] += work
            if prefixes[p, P_EVER]:
                dyn[LOST_US, i] += work
                counters[RECOMPUTED] += prefixes[p, P_TOKENS]
            prefixes[p, P_EVER] = 1
        prefixes[p, P_REFS] += 1
        dyn[REF, i] = 1
    # The anchor sees its prefix used.
    anchor = scn[SLOTS] - scn[PREFIXES] + p
    if dyn[PLACE, anchor] == ON_GPU:
        dyn[COUNT, anchor] += 1
        touch(dyn, anchor, counters[T])


@uncounted
def _start(scn, c, events, i, units):
    """Gives a waiting session the `units` it lacks, brings its cache back and books the prefill it still
    needs.
    """
    dyn, counters = c.dyn, c.counters
    t, p, k = counters[T], c.static[PREFIX, i], c.static[FIRST_TURN, i] + dyn[TURN, i]
    take(c.ledger, TIER_GPU, units)
    if dyn[PLACE, i] == ON_CPU:
        _fetch(scn, c, events, i)
    past = 0
    if p >= 0:
        past = c.prefixes[p, P_TOKENS]
        _attach(scn, c, i, p)
    if dyn[GENERATED, i] == 0:
        prompt = c.turns[k, CONTEXT] + c.turns[k, NEW]
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


@uncounted
def in_order(dyn, active, n, phase, chosen):
    """Writes those of the `n` active sessions that are in `phase` into `chosen`, by order key; returns how
    many.
    """
    m = 0
    for k in range(n):
        i = active[k]
        if dyn[PHASE, i] == phase:
            place = m
            while place > 0 and dyn[ORDER, chosen[place - 1]] > dyn[ORDER, i]:
                chosen[place] = chosen[place - 1]
                place -= 1
            chosen[place] = i
            m += 1
    return m


@uncounted
def admit(scn, c, events, active, n, queue):
    """First come, first served: the first that does not fit, or finds the link taken, holds back those behind
    it.
    """
    for k in range(in_order(c.dyn, active, n, QUEUED, queue)):
        i = queue[k]
        units = demand(c, i)
        if units > free(c.ledger, TIER_GPU):
            return
        if c.dyn[PLACE, i] == ON_CPU and c.counters[LINK_USED] >= scn[STEP_US]:
            return
        _start(scn, c, events, i, units)


@uncounted
def prefill(scn, c, active, n, lane):
    """The lane works off cold prefill and recompute in order; waiting for what was lost counts, cold work
    does not.
    """
    dyn, used, window = c.dyn, 0, scn[STEP_US]
    for k in range(in_order(dyn, active, n, PREFILL, lane)):
        i = lane[k]
        work = min(dyn[TODO_US, i], window - used)
        if dyn[LOST_US, i] > 0:
            done = min(dyn[LOST_US, i], work)
            dyn[LOST_US, i] -= done
            dyn[WAIT_US, i] += window if dyn[LOST_US, i] > 0 else used + done
        used += work
        dyn[TODO_US, i] -= work
        if dyn[TODO_US, i] == 0:
            dyn[PHASE, i] = DECODE
    c.counters[PREFILL_BUSY_US] = used


@uncounted
def wait(scn, c, events, active, n):
    """Adds a window to everyone who waits and fails whoever has waited too long; the last window settles the
    rest.
    """
    dyn, counters, window = c.dyn, c.counters, scn[STEP_US]
    queue = 0
    for k in range(n):
        i = active[k]
        phase, busy = dyn[PHASE, i], dyn[BUSY, i]
        if phase == QUEUED or busy == INTERRUPTED:
            dyn[WAIT_US, i] += window
        if busy == INTERRUPTED:
            dyn[BUSY, i] = 0
        if dyn[WAIT_US, i] > WAIT_LIMIT_STEPS * window:
            fail(c, events, i, E_WAITED, FAILED_WAIT)
        elif phase == QUEUED:
            queue += 1
    counters[QUEUE_BEFORE] = counters[QUEUE]
    counters[QUEUE] = queue
    if counters[T] == scn[STEPS_] - 1:
        _settle(scn, c, events, active, n)


@uncounted
def _settle(scn, c, events, active, n):
    """Unfinished turns are not free at the end: whatever was decoded too coarsely has failed, and so has
    whoever waited a full window and got nothing for it (whoever still stands in the lane with cold work has
    not). The cache stays."""
    dyn = c.dyn
    for k in range(n):
        i = active[k]
        phase = dyn[PHASE, i]
        if phase == IDLE:
            continue
        empty = phase == QUEUED or (dyn[GENERATED, i] == 0 and (phase == DECODE or dyn[LOST_US, i] > 0))
        if dyn[SPOILED, i]:
            _count(events, c.counters, i, E_WRONG, FAILED_INT8 if dyn[SPOILED, i] == 1 else FAILED_INT4)
        elif empty and dyn[WAIT_US, i] > scn[STEP_US]:
            _count(events, c.counters, i, E_UNSERVED, FAILED_END)


@uncounted
def _count(events, counters, i, why, counter):
    counters[FAILURES] += 1
    counters[counter] += 1
    note(events, counters, why, i, 0)

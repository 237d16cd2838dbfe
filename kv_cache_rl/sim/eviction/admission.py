"""Waiting and admission: demand of the queue, admission by arrival, the prefill lane, time waited."""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.compiled import free, give, take
from kv_cache_rl.sim.eviction.columns import (
    UNITS_PER_PAGE,
    Busy,
    Counter,
    Kind,
    Phase,
    Place,
    Slot,
    Static,
    Tier,
    columns_of,
)
from kv_cache_rl.sim.eviction.entries import (
    Event,
    count_failure,
    fail,
    link_us,
    note,
    pages_of,
    prefill_us,
    touch,
    units_of,
    wrong_answer,
)
from kv_cache_rl.sim.eviction.spec import WAIT_LIMIT_STEPS


@uncounted
def demand(c, i):
    """GPU units that a waiting session still needs before it can run."""
    dyn = c.dyn
    turn = c.turns[c.static[Static.FIRST_TURN, i] + dyn[Slot.TURN, i]]
    tokens = max(turn.context + turn.new + dyn[Slot.GENERATED, i], dyn[Slot.TOKENS, i])
    units = pages_of(tokens) * (UNITS_PER_PAGE >> dyn[Slot.LEVEL, i])
    if dyn[Slot.PLACE, i] == Place.GPU:
        units -= units_of(dyn, i)
    p = c.static[Static.PREFIX, i]
    if p >= 0 and not dyn[Slot.REF, i] and c.prefixes[p].refs == 0:
        units += c.prefixes[p].pages * UNITS_PER_PAGE
    return units


@uncounted
def demand_units(scn, live, i):
    """`demand` of a session in packed buffers."""
    return demand(columns_of(scn, live), i)


@uncounted
def _fetch(c, events, i):
    """Brings a cache back over the link, behind the transfers that it carries already."""
    units = units_of(c.dyn, i)
    give(c.ledger, Tier.CPU, units)
    c.counters[Counter.LINK_USED] += link_us(c.constants, units)
    late = c.counters[Counter.LINK_USED]
    c.counters[Counter.LATENCY_US] += late
    c.dyn[Slot.WAIT_US, i] += late
    if late > c.constants.step_us:
        c.dyn[Slot.BUSY, i] = Busy.PAUSED
    note(events, c.counters, Event.SWAPPED_IN, i, late)


@uncounted
def _attach(c, i, p):
    """Gives a session its shared prefix, which is computed anew if no entry holds it."""
    dyn, prefix, counters = c.dyn, c.prefixes[p], c.counters
    if not dyn[Slot.REF, i]:
        if prefix.refs == 0:
            work = prefill_us(c.constants, prefix.tokens, 0)
            dyn[Slot.TODO_US, i] += work
            if prefix.ever:
                dyn[Slot.LOST_US, i] += work
                counters[Counter.RECOMPUTED] += prefix.tokens
            prefix.ever = 1
        prefix.refs += 1
        dyn[Slot.REF, i] = 1
    # The anchor counts as used with its prefix.
    anchor = c.constants.slots - c.constants.prefixes + p
    if dyn[Slot.PLACE, anchor] == Place.GPU:
        dyn[Slot.COUNT, anchor] += 1
        touch(dyn, anchor, counters[Counter.WINDOW])


@uncounted
def _start(c, events, i, units):
    """Gives a waiting session the `units` it lacks, brings its cache back and books its prefill."""
    dyn, counters = c.dyn, c.counters
    t, p = counters[Counter.WINDOW], c.static[Static.PREFIX, i]
    turn = c.turns[c.static[Static.FIRST_TURN, i] + dyn[Slot.TURN, i]]
    take(c.ledger, Tier.GPU, units)
    if dyn[Slot.PLACE, i] == Place.CPU:
        _fetch(c, events, i)
    past = 0
    if p >= 0:
        past = c.prefixes[p].tokens
        _attach(c, i, p)
    if dyn[Slot.GENERATED, i] == 0:
        prompt = turn.context + turn.new
        have = dyn[Slot.TOKENS, i]
        lost = max(min(dyn[Slot.EVER, i], prompt) - have, 0)
        if prompt > have:
            dyn[Slot.TODO_US, i] += prefill_us(c.constants, prompt - have, past + have)
            dyn[Slot.LOST_US, i] += prefill_us(c.constants, lost, past + have)
            counters[Counter.RECOMPUTED] += lost
            dyn[Slot.TOKENS, i] = prompt
        dyn[Slot.EVER, i] = max(dyn[Slot.EVER, i], dyn[Slot.TOKENS, i])
    if dyn[Slot.PLACE, i] == Place.NOWHERE:
        dyn[Slot.BORN, i] = t
        dyn[Slot.HOT, i] = 500
        dyn[Slot.LAST, i] = t
    dyn[Slot.PAGES, i] = pages_of(dyn[Slot.TOKENS, i])
    dyn[Slot.PLACE, i] = Place.GPU
    dyn[Slot.KIND, i] = Kind.GENERATION
    dyn[Slot.PHASE, i] = Phase.PREFILL
    touch(dyn, i, t)
    note(events, counters, Event.ADMITTED, i, dyn[Slot.TODO_US, i])


@uncounted
def in_order(dyn, active, n, phase, chosen):
    """Writes the active sessions that are in `phase` into `chosen`, by order key; returns how many."""
    m = 0
    for k in range(n):
        i = active[k]
        if dyn[Slot.PHASE, i] == phase:
            place = m
            while place > 0 and dyn[Slot.ORDER, chosen[place - 1]] > dyn[Slot.ORDER, i]:
                chosen[place] = chosen[place - 1]
                place -= 1
            chosen[place] = i
            m += 1
    return m


@uncounted
def admit(c, events, active, n, queue):
    """First come, first served: one that does not fit, or finds the link taken, holds back the rest."""
    for k in range(in_order(c.dyn, active, n, Phase.QUEUED, queue)):
        i = queue[k]
        units = demand(c, i)
        if units > free(c.ledger, Tier.GPU):
            return
        if c.dyn[Slot.PLACE, i] == Place.CPU and c.counters[Counter.LINK_USED] >= c.constants.step_us:
            return
        _start(c, events, i, units)


@uncounted
def prefill(c, active, n, lane):
    """Works off the prefill in order. Waiting for work done before counts, for cold work it does not."""
    dyn, used, window = c.dyn, 0, c.constants.step_us
    for k in range(in_order(dyn, active, n, Phase.PREFILL, lane)):
        i = lane[k]
        work = min(dyn[Slot.TODO_US, i], window - used)
        if dyn[Slot.LOST_US, i] > 0:
            done = min(dyn[Slot.LOST_US, i], work)
            dyn[Slot.LOST_US, i] -= done
            dyn[Slot.WAIT_US, i] += window if dyn[Slot.LOST_US, i] > 0 else used + done
        used += work
        dyn[Slot.TODO_US, i] -= work
        if dyn[Slot.TODO_US, i] == 0:
            dyn[Slot.PHASE, i] = Phase.DECODE
    c.counters[Counter.PREFILL_BUSY_US] = used


@uncounted
def wait(c, events, active, n):
    """Adds a window to the time waited and fails what waited too long; the last window settles the rest."""
    dyn, counters, window = c.dyn, c.counters, c.constants.step_us
    queue = 0
    for k in range(n):
        i = active[k]
        phase, busy = dyn[Slot.PHASE, i], dyn[Slot.BUSY, i]
        if phase == Phase.QUEUED or busy == Busy.INTERRUPTED:
            dyn[Slot.WAIT_US, i] += window
        if busy == Busy.INTERRUPTED:
            dyn[Slot.BUSY, i] = Busy.NOTHING
        if dyn[Slot.WAIT_US, i] > WAIT_LIMIT_STEPS * window:
            fail(c, events, i, Event.WAITED, Counter.FAILED_WAIT)
        elif phase == Phase.QUEUED:
            queue += 1
    counters[Counter.QUEUE_BEFORE] = counters[Counter.QUEUE]
    counters[Counter.QUEUE] = queue
    if counters[Counter.WINDOW] == c.constants.steps - 1:
        _settle(c, events, active, n)


@uncounted
def _settle(c, events, active, n):
    """Fails turns at the end: those decoded too coarsely, and those that waited a window for nothing.

    A session that is still in the lane with cold work has not failed. The caches stay."""
    dyn, counters = c.dyn, c.counters
    for k in range(n):
        i = active[k]
        phase = dyn[Slot.PHASE, i]
        if phase == Phase.IDLE:
            continue
        without_token = dyn[Slot.GENERATED, i] == 0 and (phase == Phase.DECODE or dyn[Slot.LOST_US, i] > 0)
        empty = phase == Phase.QUEUED or without_token
        if dyn[Slot.SPOILED, i]:
            count_failure(events, counters, i, Event.WRONG, wrong_answer(dyn[Slot.SPOILED, i]), 0)
        elif empty and dyn[Slot.WAIT_US, i] > c.constants.step_us:
            count_failure(events, counters, i, Event.UNSERVED, Counter.FAILED_END, 0)

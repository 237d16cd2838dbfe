"""One cache entry: what it takes, what it is worth, and how it is touched, released and failed."""

from kv_cache_rl.jit import njit, uncounted
from kv_cache_rl.sim.compiled import blocks_for, give, prefill_microseconds, transfer_microseconds
from kv_cache_rl.sim.eviction.spec import PAGE_TOKENS
from kv_cache_rl.sim.eviction.state import *

(E_ARRIVED, E_ADMITTED, E_COMPLETED, E_WAITED, E_WRONG, E_PREEMPTED, E_SWAPPED_IN, E_UNSERVED) = range(8)


@njit(inline="always")
def pages_of(tokens):
    return blocks_for(tokens, PAGE_TOKENS)


@njit(inline="always")
def units_of(dyn, i):
    """Quarter pages of the entry's own pages, wherever they are."""
    return dyn[PAGES, i] * (UNITS_PER_PAGE >> dyn[LEVEL, i])


@njit(inline="always")
def prefill_us(scn, tokens, past):
    """Microseconds of the prefill lane for `tokens` behind `past`."""
    return prefill_microseconds(tokens, past, scn[C1_NS], scn[C2_PS])


@njit(inline="always")
def link_us(scn, units):
    return transfer_microseconds(units, scn[LINK_NS], scn[LINK_FIXED])


@njit(inline="always")
def tenths(number):
    """`number` // 10 for 0 to 81,919, in a multiplication: signed division takes five times as long."""
    return number * 52_429 >> 19


@uncounted
def hotness(dyn, i, t):
    """Recency-weighted use in parts per thousand: loses 30 % per window without access."""
    hot, idle = dyn[HOT, i], t - dyn[LAST, i]
    # Nothing is left of 1,000 after 18 windows.
    while idle > 0 and hot > 0:
        hot = tenths(hot * 7)
        idle -= 1
    return hot


@uncounted
def progress(c, i):
    """Share of its target a generating sequence has reached, parts per thousand; 0 for anything else."""
    if c.dyn[PHASE, i] < QUEUED or c.dyn[KIND, i] != GENERATION:
        return 0
    return 1000 * c.dyn[GENERATED, i] // c.turns[c.static[FIRST_TURN, i] + c.dyn[TURN, i], OUT]


@uncounted
def eviction_value(c, i, t):
    """0 (worst to evict) to 1000 (safest): base of the block type, corrected for hotness, priority and
    progress.
    """
    kind = c.dyn[KIND, i]
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
    value = 100 * base - 15 * (hotness(c.dyn, i, t) - 500) - 15 * (c.static[PRIORITY, i] - 500)
    value -= 10 * progress(c, i)
    return min(max(value // 100, 0), 1000)


@uncounted
def touch(dyn, i, t):
    hot = hotness(dyn, i, t)
    dyn[HOT, i] = hot + tenths((1000 - hot) * 3)
    dyn[LAST, i] = t


@uncounted
def _drop_prefix(c, i):
    if c.dyn[REF, i]:
        p = c.static[PREFIX, i]
        c.dyn[REF, i] = 0
        c.prefixes[p, P_REFS] -= 1
        if c.prefixes[p, P_REFS] == 0:
            give(c.ledger, TIER_GPU, c.prefixes[p, P_PAGES] * UNITS_PER_PAGE)


@uncounted
def release(c, i):
    """Takes everything the entry holds away from it."""
    dyn = c.dyn
    if dyn[PLACE, i] != NOWHERE:
        give(c.ledger, TIER_GPU if dyn[PLACE, i] == ON_GPU else TIER_CPU, units_of(dyn, i))
    _drop_prefix(c, i)
    dyn[PLACE, i] = NOWHERE
    dyn[TOKENS, i] = 0
    dyn[PAGES, i] = 0
    dyn[LEVEL, i] = 0


@uncounted
def note(events, counters, what, slot, value):
    if counters[EVENTS] < len(events):
        events[counters[EVENTS], 0] = what
        events[counters[EVENTS], 1] = slot
        events[counters[EVENTS], 2] = value
        counters[EVENTS] += 1


@uncounted
def fail(c, events, i, why, counter):
    """The current turn is lost, and so is what its session had cached: the next turn comes with a cold
    context.
    """
    dyn, counters = c.dyn, c.counters
    release(c, i)
    dyn[PHASE, i] = IDLE
    dyn[KIND, i] = CONTEXT_KIND
    dyn[TURN, i] += 1
    counters[FAILURES] += 1
    counters[counter] += 1
    note(events, counters, why, i, dyn[WAIT_US, i])

"""One cache entry: what it takes, what it is worth, and how it is touched, released and failed."""

from kv_cache_rl.core import blocks, hardware, pool
from kv_cache_rl.jit import njit
from kv_cache_rl.sim.eviction.spec import PAGE_TOKENS
from kv_cache_rl.sim.eviction.state import *
from kv_cache_rl.sim.eviction.state import counters_of, dynamic_of, ledger_of, prefixes_of, static_of, turns_of

(E_ARRIVED, E_ADMITTED, E_COMPLETED, E_WAITED, E_WRONG, E_PREEMPTED, E_SWAPPED_IN, E_UNSERVED) = range(8)

take = njit(inline="always")(pool.take)
give = njit(inline="always")(pool.give)
free = njit(inline="always")(pool.free)
_blocks = njit(inline="always")(blocks.blocks_for)
_prefill = njit(inline="always")(hardware.prefill_microseconds)
_transfer = njit(inline="always")(hardware.transfer_microseconds)


@njit(inline="always")
def pages_of(tokens):
    return _blocks(tokens, PAGE_TOKENS)


@njit(inline="always")
def units_of(dyn, i):
    """Quarter pages of the entry's own pages, wherever they are."""
    return dyn[PAGES, i] * (UNITS_PER_PAGE >> dyn[LEVEL, i])


@njit(inline="always")
def prefill_us(scn, tokens, past):
    """Microseconds of the prefill lane for `tokens` behind `past`."""
    return _prefill(tokens, past, scn[C1_NS], scn[C2_PS])


@njit(inline="always")
def link_us(scn, units):
    return _transfer(units, scn[LINK_NS], scn[LINK_FIXED])


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
def touch(dyn, i, t):
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
            give(ledger_of(scn, state), TIER_GPU, prefixes[p, P_PAGES] * UNITS_PER_PAGE)


@njit
def release(scn, state, i):
    """Takes everything the entry holds away from it."""
    dyn = dynamic_of(scn, state)
    if dyn[PLACE, i] != NOWHERE:
        give(ledger_of(scn, state), TIER_GPU if dyn[PLACE, i] == ON_GPU else TIER_CPU, units_of(dyn, i))
    _drop_prefix(scn, state, i)
    dyn[PLACE, i] = NOWHERE
    dyn[TOKENS, i] = 0
    dyn[PAGES, i] = 0
    dyn[LEVEL, i] = 0


@njit
def note(events, counters, what, slot, value):
    if counters[EVENTS] < len(events):
        events[counters[EVENTS], 0] = what
        events[counters[EVENTS], 1] = slot
        events[counters[EVENTS], 2] = value
        counters[EVENTS] += 1


@njit
def fail(scn, state, events, i, why, counter):
    """The current turn is lost, and so is what its session had cached: the next turn comes with a cold context."""
    dyn, counters = dynamic_of(scn, state), counters_of(scn, state)
    release(scn, state, i)
    dyn[PHASE, i] = IDLE
    dyn[KIND, i] = CONTEXT_KIND
    dyn[TURN, i] += 1
    counters[FAILURES] += 1
    counters[counter] += 1
    note(events, counters, why, i, dyn[WAIT_US, i])

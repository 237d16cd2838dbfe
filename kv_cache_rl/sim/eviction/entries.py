"""One cache entry: its memory, its eviction value, and how it is touched, released and failed."""

from enum import IntEnum

from kv_cache_rl.jit import njit, uncounted
from kv_cache_rl.sim.compiled import blocks_for, give, prefill_microseconds, transfer_microseconds
from kv_cache_rl.sim.eviction.columns import UNITS_PER_PAGE, Counter, Kind, Phase, Place, Slot, Static, Tier
from kv_cache_rl.sim.eviction.spec import PAGE_TOKENS


class Event(IntEnum):
    """What may happen to an entry in a window."""

    ARRIVED = 0
    ADMITTED = 1
    COMPLETED = 2
    WAITED = 3  # failed: it waited too long
    WRONG = 4  # failed: decoded below its tolerance
    PREEMPTED = 5  # failed: memory overflowed
    SWAPPED_IN = 6
    UNSERVED = 7  # failed: it still waited when the episode ended


@njit(inline="always")
def pages_of(tokens):
    return blocks_for(tokens, PAGE_TOKENS)


@njit(inline="always")
def units_of(dyn, i):
    """Units of the entry's own pages, wherever they are."""
    return dyn[Slot.PAGES, i] * (UNITS_PER_PAGE >> dyn[Slot.LEVEL, i])


@njit(inline="always")
def prefill_us(constants, tokens, past):
    """Microseconds of the prefill lane for `tokens` behind `past`."""
    return prefill_microseconds(tokens, past, constants.prefill_c1_ns, constants.prefill_c2_ps)


@njit(inline="always")
def link_us(constants, units):
    """Microseconds of the link for `units`."""
    return transfer_microseconds(units, constants.link_ns, constants.link_fixed_us)


@njit(inline="always")
def tenths(number):
    """`number` // 10 for 0 to 81,919 by a multiplication; signed division takes five times as long."""
    return number * 52_429 >> 19


@uncounted
def hotness(dyn, i, t):
    """Recency-weighted use in parts per thousand: loses 30 % per window without access."""
    hot, idle = dyn[Slot.HOT, i], t - dyn[Slot.LAST, i]
    # Nothing is left of 1,000 after 18 windows.
    while idle > 0 and hot > 0:
        hot = tenths(hot * 7)
        idle -= 1
    return hot


@uncounted
def progress(c, i):
    """Share of its answer that a generating sequence has reached, parts per thousand; else 0."""
    if c.dyn[Slot.PHASE, i] < Phase.QUEUED or c.dyn[Slot.KIND, i] != Kind.GENERATION:
        return 0
    k = c.static[Static.FIRST_TURN, i] + c.dyn[Slot.TURN, i]
    return 1000 * c.dyn[Slot.GENERATED, i] // c.turns[k].out


@uncounted
def eviction_value(c, i, t):
    """0 (worst to evict) to 1000 (safest): the block type's, less hotness, priority and progress."""
    kind = c.dyn[Slot.KIND, i]
    base = 0
    if kind == Kind.CONTEXT or kind == Kind.TOOL_RESULT:
        base = 250
    elif kind == Kind.GENERATION:
        base = 500
    elif kind == Kind.REASONING:
        base = 900
    elif kind == Kind.EPHEMERAL:
        base = 1000
    # In hundredths of a part per thousand, so that the three corrections stay exact.
    value = 100 * base - 15 * (hotness(c.dyn, i, t) - 500) - 15 * (c.static[Static.PRIORITY, i] - 500)
    value -= 10 * progress(c, i)
    return min(max(value // 100, 0), 1000)


@uncounted
def touch(dyn, i, t):
    """Records an access in window `t`."""
    hot = hotness(dyn, i, t)
    dyn[Slot.HOT, i] = hot + tenths((1000 - hot) * 3)
    dyn[Slot.LAST, i] = t


@uncounted
def _drop_prefix(c, i):
    if c.dyn[Slot.REF, i]:
        p = c.static[Static.PREFIX, i]
        c.dyn[Slot.REF, i] = 0
        c.prefixes[p].refs -= 1
        if c.prefixes[p].refs == 0:
            give(c.ledger, Tier.GPU, c.prefixes[p].pages * UNITS_PER_PAGE)


@uncounted
def give_back(c, i, units):
    """Returns `units` of the tier in which the entry lies."""
    give(c.ledger, Tier.GPU if c.dyn[Slot.PLACE, i] == Place.GPU else Tier.CPU, units)


@uncounted
def release(c, i):
    """Frees everything that the entry holds."""
    dyn = c.dyn
    if dyn[Slot.PLACE, i] != Place.NOWHERE:
        give_back(c, i, units_of(dyn, i))
    _drop_prefix(c, i)
    dyn[Slot.PLACE, i] = Place.NOWHERE
    dyn[Slot.TOKENS, i] = 0
    dyn[Slot.PAGES, i] = 0
    dyn[Slot.LEVEL, i] = 0


@uncounted
def note(events, counters, what, slot, value):
    """Records an event while there is room for it."""
    n = counters[Counter.EVENTS]
    if n < len(events):
        events[n].what = what
        events[n].slot = slot
        events[n].value = value
        counters[Counter.EVENTS] += 1


@uncounted
def count_failure(events, counters, i, why, counter, value):
    """Counts a failed request under its cause."""
    counters[Counter.FAILURES] += 1
    counters[counter] += 1
    note(events, counters, why, i, value)


@uncounted
def wrong_answer(level):
    """The counter of an answer decoded at a rung below its tolerance."""
    return Counter.FAILED_INT8 if level == 1 else Counter.FAILED_INT4


@uncounted
def fail(c, events, i, why, counter):
    """Ends the current turn as failed and frees its session's cache: the next turn finds no context."""
    dyn = c.dyn
    release(c, i)
    dyn[Slot.PHASE, i] = Phase.IDLE
    dyn[Slot.KIND, i] = Kind.CONTEXT
    dyn[Slot.TURN, i] += 1
    count_failure(events, c.counters, i, why, counter, dyn[Slot.WAIT_US, i])

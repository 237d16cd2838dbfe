"""One future, compiled: sessions as `drawing` completes them, in a state that looks as the last view did.

What the view says in sums is completed to what each entry holds and has yet to do."""

import numpy as np

from kv_cache_rl.jit import njit
from kv_cache_rl.search.eviction.drawing import MOST_CALLS, MOST_NEW, believed, newcomers
from kv_cache_rl.search.eviction.process import CALLS
from kv_cache_rl.sim.eviction.columns import (
    COUNTERS,
    HEADER,
    PREFIX,
    SCENARIO,
    TURN,
    UNITS_PER_PAGE,
    Counter,
    Dead,
    Kind,
    Phase,
    Place,
    Role,
    Slot,
    Static,
    Tier,
    cells,
    columns_of,
)
from kv_cache_rl.sim.eviction.generate import MAIN_PREFIXES
from kv_cache_rl.sim.eviction.observe import Status
from kv_cache_rl.sim.eviction.spec import PAGE_TOKENS

_STATICS, _SLOTS, _TIERS = len(Static), len(Slot), len(Tier)
_TURN_CELLS, _PREFIX_CELLS = cells(TURN), cells(PREFIX)


@njit
def imagine(rng, b):
    """A state, `scn` and `live`, that looks as the last view did, with a future."""
    window, prefixes = b.window[0], len(b.prefix_pages)
    entries = b.entries.copy()
    n = len(entries)
    static = np.zeros((n + MOST_NEW, _STATICS), np.int64)
    turns, calls = np.empty((n + MOST_NEW) * MOST_CALLS, TURN), np.empty(MOST_CALLS, CALLS)
    tokens, done = np.empty(n, np.int64), np.empty(n, np.int64)
    until_s = b.header.view(SCENARIO)[0].steps * window.step_s
    m, come = believed(rng, b, entries, until_s, static, tokens, done, calls, turns), 0
    if prefixes > MAIN_PREFIXES:
        come, m = newcomers(rng, b, until_s, static, calls, turns, m)
    sessions, dead = n + come, 0
    for k in range(m):
        if turns[k].dead_kind != Dead.NOTHING:
            turns[k].dead_slot = sessions + dead
            dead += 1
    slots = sessions + dead + prefixes
    scn = np.zeros(HEADER + _STATICS * slots + _TURN_CELLS * m, np.int64)
    scn[: len(b.header)] = b.header
    scn[0], scn[1], scn[2] = sessions, slots, m
    live = np.zeros(_SLOTS * slots + _PREFIX_CELLS * prefixes + 2 * _TIERS + COUNTERS, np.int64)
    c = columns_of(scn, live)
    for k in range(m):
        c.turns[k] = turns[k]
    _write_static(c, static, sessions)
    _write_entries(c, entries, window, tokens, done)
    _share_backlog(c, entries, window)
    _write_prefixes(c, b)
    _write_totals(c, window)
    return scn, live


@njit
def _write_static(c, static, sessions):
    """Static columns of sessions, of what their turns leave dead, and of the anchors."""
    for i in range(sessions):
        for column in range(_STATICS):
            c.static[column, i] = static[i, column]
        first = static[i, Static.FIRST_TURN]
        for k in range(first, first + static[i, Static.NUM_TURNS]):
            d = c.turns[k].dead_slot
            if d >= 0:
                c.static[Static.ROLE, d], c.static[Static.CLASS, d] = Role.DEAD, static[i, Static.CLASS]
                c.static[Static.PRIORITY, d] = static[i, Static.PRIORITY]
                c.static[Static.RATE, d], c.static[Static.PREFIX, d] = 1, -1
    for k in range(c.constants.prefixes):
        i = c.constants.slots - c.constants.prefixes + k
        c.static[Static.ROLE, i], c.static[Static.PRIORITY, i] = Role.ANCHOR, 500
        c.static[Static.RATE, i], c.static[Static.PREFIX, i] = 1, k


@njit
def _write_entries(c, entries, window, tokens, done):
    """What the view shows of every entry."""
    dyn, step_us = c.dyn, c.constants.step_us
    for i in range(len(entries)):
        one = entries[i]
        # A status is a phase, or the dead part of an answer being decoded.
        phase = Phase.DECODE if one.status == Status.REASONING else one.status
        if one.queued:
            phase = Phase.QUEUED
        elif not one.active:
            phase = Phase.IDLE
        dyn[Slot.KIND, i], dyn[Slot.PHASE, i], dyn[Slot.COUNT, i] = one.kind, phase, one.uses
        dyn[Slot.LAST, i], dyn[Slot.BORN, i] = one.seen, one.seen + one.idle - one.age
        dyn[Slot.EVER, i] = max(tokens[i], one.pages * PAGE_TOKENS - PAGE_TOKENS // 2)
        dyn[Slot.GENERATED, i], dyn[Slot.WAIT_US, i] = done[i], round(one.waited * step_us)
        dyn[Slot.ORDER, i] = one.arrived * 1024 + i
        if phase == Phase.DECODE and done[i] > 0 and one.level > c.static[Static.TOLERANCE, i]:
            dyn[Slot.SPOILED, i] = one.level
        if one.cached and one.place != Place.NOWHERE:
            dyn[Slot.PLACE, i], dyn[Slot.LEVEL, i] = one.place, one.level
            dyn[Slot.TOKENS, i], dyn[Slot.PAGES, i] = tokens[i], one.pages
            dyn[Slot.REF, i] = 1 if c.static[Static.PREFIX, i] >= 0 and one.holds else 0
            dyn[Slot.HOT, i] = _hotness(one)


@njit
def _hotness(one):
    """The hotness at the last access that the shown value implies."""
    base = 250 if one.kind == Kind.CONTEXT or one.kind == Kind.TOOL_RESULT else 500
    now = 500 + (base - 10 * one.value - 1.5 * (one.priority - 50) - one.progress) / 0.15
    return int(min(max(now / 0.7 ** min(one.idle, 18), 0.0), 1000.0))


@njit
def _share_backlog(c, entries, window):
    """Tells what each prefill has yet to do: the last in the lane all of it, the first what is left."""
    dyn, left, first, after = c.dyn, window.backlog_us, -1, np.int64(1) << 60
    while True:
        last = -1
        for i in range(len(entries)):
            if dyn[Slot.PHASE, i] == Phase.PREFILL and dyn[Slot.ORDER, i] < after:
                if last < 0 or dyn[Slot.ORDER, i] > dyn[Slot.ORDER, last]:
                    last = i
        if last < 0:
            break
        whole = round(entries[last].reload * 100_000 * entries[last].fresh)
        dyn[Slot.TODO_US, last] = max(min(whole, left), 1)
        left = max(left - whole, 0)
        first, after = last, dyn[Slot.ORDER, last]
    if first >= 0:
        dyn[Slot.TODO_US, first] += left
    for i in range(len(entries)):
        if dyn[Slot.PHASE, i] == Phase.PREFILL:
            dyn[Slot.LOST_US, i] = dyn[Slot.TODO_US, i] * entries[i].lost


@njit
def _write_prefixes(c, b):
    for k in range(len(b.prefix_pages)):
        i = c.constants.slots - len(b.prefix_pages) + k
        dyn = c.dyn
        dyn[Slot.KIND, i], dyn[Slot.HOT, i], dyn[Slot.COUNT, i] = Kind.SYSTEM, 500, 1
        dyn[Slot.PLACE, i] = Place.GPU if b.anchored[k] else Place.NOWHERE
        dyn[Slot.REF, i] = b.anchored[k]
        c.prefixes[k].tokens, c.prefixes[k].pages = b.prefix_pages[k] * PAGE_TOKENS, b.prefix_pages[k]
        c.prefixes[k].ever = 1


@njit
def _write_totals(c, window):
    """Ledger and references as the entries have them, and the counters."""
    dyn, counters = c.dyn, c.counters
    c.ledger[Tier.GPU, 0], c.ledger[Tier.CPU, 0] = c.constants.budget_units, c.constants.cpu_units
    for i in range(c.constants.slots):
        if dyn[Slot.REF, i]:
            c.prefixes[c.static[Static.PREFIX, i]].refs += 1
        if dyn[Slot.PLACE, i] != Place.NOWHERE:
            units = dyn[Slot.PAGES, i] * (UNITS_PER_PAGE >> dyn[Slot.LEVEL, i])
            c.ledger[dyn[Slot.PLACE, i] - 1, 1] += units
    for k in range(len(c.prefixes)):
        if c.prefixes[k].refs > 0:
            c.ledger[Tier.GPU, 1] += c.prefixes[k].pages * UNITS_PER_PAGE
    counters[Counter.WINDOW], counters[Counter.FAILURES] = window.t, window.failures
    counters[Counter.QUEUE], counters[Counter.QUEUE_BEFORE] = window.queued, window.queued - window.growth
    counters[Counter.ABOVE_95], counters[Counter.TOKENS_DONE] = window.above, window.tokens_done
    counters[Counter.LATENCY_US] = window.late_us

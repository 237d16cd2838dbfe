"""What one window does to the cache: calls, decode, arrivals, admission, prefill, waiting, overflow.

One compiled implementation for the live episode, the batch of episodes and the search.
"""

import numpy as np

from kv_cache_rl.core import blocks
from kv_cache_rl.jit import njit, uncounted
from kv_cache_rl.sim.compiled import free, take
from kv_cache_rl.sim.eviction.actions import Outcome, act
from kv_cache_rl.sim.eviction.admission import admit, prefill, wait
from kv_cache_rl.sim.eviction.columns import (
    UNITS_PER_PAGE,
    Busy,
    Counter,
    Dead,
    Kind,
    Phase,
    Place,
    Slot,
    Static,
    Tier,
    calls_of,
    columns_of,
    constants_of,
    events_of,
)
from kv_cache_rl.sim.eviction.entries import (
    Event,
    fail,
    give_back,
    note,
    pages_of,
    touch,
    units_of,
    wrong_answer,
)
from kv_cache_rl.sim.eviction.spec import (
    BLOCK_TYPES,
    MAX_CALLS_PER_STEP,
    OFFLOADED,
    PAGE_TOKENS,
    PLACES,
    Scenario,
)
from kv_cache_rl.sim.eviction.state import State, held_by, live_size, pack


def new_state(scenario: Scenario) -> State:
    """The episode before its first window. Everything random is in the scenario already."""
    scn = pack(scenario)
    state = State(scn, np.zeros(live_size(scn), np.int64))
    c, sessions = state.columns, scenario.sessions
    own = c.dyn[:, : len(sessions)]
    own[Slot.KIND] = [BLOCK_TYPES.index(s.kind) for s in sessions]
    own[Slot.PLACE] = [PLACES.index(s.place) for s in sessions]
    own[Slot.LEVEL][own[Slot.PLACE] == Place.CPU] = OFFLOADED
    own[Slot.TOKENS] = own[Slot.EVER] = [s.tokens for s in sessions]
    own[Slot.PAGES] = [blocks.blocks_for(s.tokens, PAGE_TOKENS) for s in sessions]
    own[Slot.REF] = [s.tokens > 0 and s.prefix >= 0 for s in sessions]
    own[Slot.LAST] = [s.last_access for s in sessions]
    own[Slot.COUNT] = [s.accesses for s in sessions]
    own[Slot.BORN] = own[Slot.LAST] - own[Slot.COUNT]
    own[Slot.HOT] = 500
    for i, s in enumerate(sessions):
        if s.turns and s.turns[0].arrive < 0 and s.tokens:
            first = s.turns[0]
            own[Slot.PHASE, i], own[Slot.KIND, i] = Phase.DECODE, Kind.GENERATION
            own[Slot.GENERATED, i] = s.tokens - first.context - first.new
            own[Slot.ORDER, i] = first.arrive * 1024 + i
    _store_prefixes(scenario, c)
    c.ledger[:, 0] = c.constants.budget_units, c.constants.cpu_units
    c.ledger[:, 1] = held_by(own)
    c.ledger[Tier.GPU, 1] += c.prefixes["pages"].sum() * UNITS_PER_PAGE
    c.counters[Counter.PEAK] = c.ledger[Tier.GPU, 1]
    return state


def _store_prefixes(scenario: Scenario, c) -> None:
    """Stores every prefix with its anchor, and counts the sessions that hold it."""
    count = len(scenario.prefixes)
    anchors = c.dyn[:, c.dyn.shape[1] - count :]
    anchors[Slot.KIND], anchors[Slot.PLACE], anchors[Slot.REF] = Kind.SYSTEM, Place.GPU, 1
    anchors[Slot.HOT], anchors[Slot.COUNT] = 500, 1
    c.prefixes["tokens"] = [prefix.tokens for prefix in scenario.prefixes]
    c.prefixes["pages"] = [blocks.blocks_for(p.tokens, PAGE_TOKENS) for p in scenario.prefixes]
    c.prefixes["refs"] = np.bincount(c.static[Static.PREFIX][c.dyn[Slot.REF] == 1], minlength=count)
    c.prefixes["ever"] = 1


@uncounted
def _in_use(dyn, sessions, active):
    """Writes the sessions that are not idle into `active`, in slot order; returns how many.

    Written without a branch: which sessions run follows no pattern that a processor could predict.
    """
    n = 0
    for i in range(sessions):
        active[n] = i
        n += dyn[Slot.PHASE, i] != Phase.IDLE
    return n


@uncounted
def _run(c, events, active, n):
    """Decodes a window's tokens of the running sessions, and ends the turns that have all of theirs."""
    static, dyn, turns = c.static, c.dyn, c.turns
    t = c.counters[Counter.WINDOW]
    for a in range(n):
        i = active[a]
        if dyn[Slot.PHASE, i] != Phase.DECODE:
            continue
        k = static[Static.FIRST_TURN, i] + dyn[Slot.TURN, i]
        if dyn[Slot.BUSY, i] == Busy.NOTHING:
            grown = min(static[Static.RATE, i], turns[k].out - dyn[Slot.GENERATED, i])
            before = units_of(dyn, i)
            dyn[Slot.GENERATED, i] += grown
            dyn[Slot.TOKENS, i] += grown
            dyn[Slot.PAGES, i] = pages_of(dyn[Slot.TOKENS, i])
            take(c.ledger, Tier.GPU, units_of(dyn, i) - before)
            if dyn[Slot.LEVEL, i] > static[Static.TOLERANCE, i]:
                dyn[Slot.SPOILED, i] = max(dyn[Slot.SPOILED, i], dyn[Slot.LEVEL, i])
            touch(dyn, i, t)
        if dyn[Slot.GENERATED, i] < turns[k].out:
            continue
        if dyn[Slot.SPOILED, i]:
            fail(c, events, i, Event.WRONG, wrong_answer(dyn[Slot.SPOILED, i]))
        else:
            _complete(c, events, i, k)


@uncounted
def _complete(c, events, i, k):
    """Completes turn `k`: its session becomes idle, and what no later turn reads an entry of its own."""
    dyn, turn, counters = c.dyn, c.turns[k], c.counters
    counters[Counter.TOKENS_DONE] += turn.out
    counters[Counter.COMPLETED] += 1
    note(events, counters, Event.COMPLETED, i, turn.out)
    dyn[Slot.PHASE, i] = Phase.IDLE
    dyn[Slot.KIND, i] = turn.leaves
    dyn[Slot.TURN, i] += 1
    after, d = turn.after, turn.dead_slot
    kept = pages_of(after)
    if d >= 0 and dyn[Slot.PAGES, i] > kept:
        dyn[Slot.KIND, d] = Kind.REASONING if turn.dead_kind == Dead.REASONING else Kind.EPHEMERAL
        dyn[Slot.PLACE, d] = Place.GPU
        dyn[Slot.LEVEL, d] = dyn[Slot.LEVEL, i]
        dyn[Slot.TOKENS, d] = dyn[Slot.TOKENS, i] - after
        dyn[Slot.PAGES, d] = dyn[Slot.PAGES, i] - kept
        dyn[Slot.LAST, d] = dyn[Slot.BORN, d] = counters[Counter.WINDOW]
        dyn[Slot.COUNT, d] = 1
        dyn[Slot.HOT, d] = dyn[Slot.HOT, i]
        dyn[Slot.PAGES, i] = kept
        dyn[Slot.TOKENS, i] = after
    dyn[Slot.EVER, i] = dyn[Slot.TOKENS, i]


@uncounted
def _drop_stale(c, i, context):
    """Frees what no longer matches the prompt of an arriving turn, whose history was cut or rewritten."""
    dyn = c.dyn
    if dyn[Slot.PLACE, i] != Place.NOWHERE and dyn[Slot.TOKENS, i] > context:
        before = units_of(dyn, i)
        dyn[Slot.TOKENS, i] = context
        dyn[Slot.PAGES, i] = pages_of(context)
        give_back(c, i, before - units_of(dyn, i))
    dyn[Slot.EVER, i] = min(dyn[Slot.EVER, i], context)


@uncounted
def _arrive(c, events, sessions):
    static, dyn, counters = c.static, c.dyn, c.counters
    t = counters[Counter.WINDOW]
    for i in range(sessions):
        # The test that decides most often, and is easiest to predict, comes first.
        if dyn[Slot.TURN, i] >= static[Static.NUM_TURNS, i]:
            continue
        turn = c.turns[static[Static.FIRST_TURN, i] + dyn[Slot.TURN, i]]
        if turn.arrive > t or dyn[Slot.PHASE, i] != Phase.IDLE:
            continue
        dyn[Slot.PHASE, i] = Phase.QUEUED
        dyn[Slot.GENERATED, i] = 0
        dyn[Slot.TODO_US, i] = 0
        dyn[Slot.LOST_US, i] = 0
        dyn[Slot.WAIT_US, i] = 0
        dyn[Slot.SPOILED, i] = 0
        _drop_stale(c, i, turn.context)
        dyn[Slot.ORDER, i] = turn.arrive * 1024 + i
        dyn[Slot.COUNT, i] += 1
        if dyn[Slot.PLACE, i] != Place.NOWHERE:
            touch(dyn, i, t)
        counters[Counter.ARRIVED] += 1
        note(events, counters, Event.ARRIVED, i, turn.new)


@uncounted
def _fails_before(c, i, other):
    """Whether `i` is preempted before `other`: the lower priority, then the later arrival."""
    mine, its = c.static[Static.PRIORITY, i], c.static[Static.PRIORITY, other]
    return mine < its or (mine == its and c.dyn[Slot.ORDER, i] > c.dyn[Slot.ORDER, other])


@uncounted
def _overflow(c, events, active, n):
    """Preempts running sessions until what is in use fits into the budget."""
    dyn = c.dyn
    while free(c.ledger, Tier.GPU) < 0:
        victim = -1
        for a in range(n):
            i = active[a]
            running = dyn[Slot.PLACE, i] == Place.GPU and dyn[Slot.PHASE, i] >= Phase.PREFILL
            if running and (victim < 0 or _fails_before(c, i, victim)):
                victim = i
        if victim < 0:
            return
        fail(c, events, victim, Event.PREEMPTED, Counter.PREEMPTED)


@uncounted
def _count_window(c, peak):
    """Counts the window: its peak, its link, and what its headroom earns."""
    budget, counters = c.constants.budget_units, c.counters
    counters[Counter.PEAK] = peak
    counters[Counter.LINK_BUSY_US] = min(counters[Counter.LINK_USED], c.constants.step_us)
    if peak * 20 > budget * 19:
        counters[Counter.ABOVE_95] += 1
    if peak * 5 < budget * 4:
        counters[Counter.HEADROOM] += 10
    elif peak * 20 < budget * 19:
        counters[Counter.HEADROOM] += 5
    elif peak < budget:
        counters[Counter.HEADROOM] += 2
    else:
        counters[Counter.HEADROOM] -= 5
    counters[Counter.WINDOW] += 1


@uncounted
def link_left(c):
    """Microseconds of transfers that the link has not carried when the window begins."""
    return max(c.counters[Counter.LINK_USED] - c.constants.step_us, 0)


@uncounted
def begin_window(c):
    """Opens a window for its calls."""
    c.counters[Counter.EVENTS] = 0
    c.counters[Counter.LINK_USED] = link_left(c)


@uncounted
def call(c, verb, entry, made):
    """Carries out a call of a window in which `made` others were made; returns its `Outcome`."""
    code = act(c, verb, entry) if made < MAX_CALLS_PER_STEP else Outcome.TOO_MANY
    c.counters[Counter.CALLS] += 1
    c.counters[Counter.INVALID] += code != Outcome.OK
    return code


@uncounted
def end_window(c, events, lists):
    """Plays what follows the calls of a window."""
    dyn, sessions = c.dyn, c.constants.sessions
    active, chosen = lists[0], lists[1]
    _run(c, events, active, _in_use(dyn, sessions, active))
    for i in range(sessions):
        dyn[Slot.BUSY, i] = 0 if dyn[Slot.BUSY, i] == Busy.PAUSED else dyn[Slot.BUSY, i]
    _arrive(c, events, sessions)
    n = _in_use(dyn, sessions, active)
    admit(c, events, active, n, chosen)
    prefill(c, active, n, chosen)
    peak = c.ledger[Tier.GPU, 1]
    wait(c, events, active, n)
    _overflow(c, events, active, n)
    _count_window(c, peak)


@uncounted
def advance(scn, live, calls, results, events, lists):
    """Plays one window like `step`, with `CALL` and `EVENT` records and the room of `new_lists`."""
    c = columns_of(scn, live)
    begin_window(c)
    if len(calls) == 0:
        c.counters[Counter.TEXT_ONLY] += 1
    for k in range(len(calls)):
        results[k] = call(c, calls[k].verb, calls[k].entry, k)
    end_window(c, events, lists)


@njit
def step(scn, live, calls, results, events):
    """Plays one window.

    Args:
        scn, live: the buffers of a `State`; `live` is advanced in place.
        calls: int64 ``[K, 2]``, contiguous: verb and slot (-1: no such id) in the order given.
        results: int64 ``[K]``, receives the `Outcome` of each call.
        events: int64 ``[E, 3]``, receives (what, slot, value) of up to E events; E = 0 records none.
    """
    advance(scn, live, calls_of(calls), results, events_of(events), new_lists(scn))


@njit
def new_lists(scn):
    """Room for `advance` to work in: int64 ``[2, sessions + 1]``."""
    return np.empty((2, constants_of(scn).sessions + 1), np.int64)

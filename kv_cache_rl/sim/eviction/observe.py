"""The view: what a decider sees, one integer table compiled from the state.

`text` writes it down as the JSON that a chat model reads, and reads it back."""

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from kv_cache_rl.core.precision import LADDER, PRECISIONS
from kv_cache_rl.jit import njit, uncounted
from kv_cache_rl.sim.eviction.admission import demand
from kv_cache_rl.sim.eviction.columns import (
    Counter,
    Dead,
    Kind,
    Phase,
    Place,
    Slot,
    Static,
    Tier,
    cells,
    columns_of,
    constants_of,
    record,
)
from kv_cache_rl.sim.eviction.entries import eviction_value, prefill_us, progress, units_of
from kv_cache_rl.sim.views import records

MAX_ROWS = 32
BITS = tuple(PRECISIONS[name].bits for name in LADDER)
"""Bits of each rung of the ladder."""


class Row(NamedTuple):
    """One entry of the view; compiled code reads the same fields of a `ROW` record."""

    slot: int
    kind: int  # `Kind`
    work_class: int  # index in `text.CLASSES`
    status: int  # `Status`
    pages: int  # own pages at 16 bits; an anchor's are those of its prefix
    level: int  # rung of LADDER
    place: int  # `Place`
    priority: int  # per cent
    progress: int  # per cent of the answer
    value: int  # eviction value, per cent
    idle: int  # windows since the last access
    uses: int
    age: int  # windows since it was stored
    prefix: int  # index of the shared prefix it holds, or -1
    sharers: int  # entries that hold the same prefix
    reload: int  # tenths of a second to compute it again


class Head(NamedTuple):
    """Totals of the view, memory in units; compiled code reads the same fields of a `HEAD` record."""

    rows: int  # rows that count
    step: int  # windows played
    left: int  # windows to come
    used: int
    budget: int
    gpu: int
    cpu_used: int
    cpu: int
    queued: int  # requests in the queue
    growth: int  # by how much the queue grew in the last window
    above: int  # windows above 95 % of the budget
    need: int  # units that the queue needs
    need_first: int  # of that, the first in the queue
    wait_first: int  # tenths of a window that the first has waited
    backlog_ms: int  # prefill still to do
    link_units: int  # units that the link moves in a window
    hidden: int  # entries that are not shown
    need_cpu: int  # units that come back from the CPU


ROW, HEAD = record(*Row._fields), record(*Head._fields)


class Status(IntEnum):
    """Index in `text.STATES`: the phase, and whether what is decoded is dead afterwards."""

    IDLE = 0
    WAIT = 1
    PREFILL = 2
    DECODE = 3
    REASONING = 4


@njit(inline="always")
def rows_of(packed):
    """Rows of a view, int64 ``[32, 16]``, as `ROW` records."""
    return records(packed, ROW)


@njit(inline="always")
def head_of(packed):
    """Head of a view, int64 ``[18]``, as a `HEAD` record."""
    return records(packed, HEAD)[0]


@uncounted
def _visible(dyn, slots, order, keys):
    """Slots shown, in slot order: if not all, the running ones, then the GPU's, then the largest."""
    n = 0
    for i in range(slots):
        order[n] = i
        n += dyn[Slot.PLACE, i] != Place.NOWHERE
    hidden = max(n - MAX_ROWS, 0)
    if hidden == 0:
        return n, 0
    for k in range(n):
        i = order[k]
        rank = 2 if dyn[Slot.PHASE, i] != Phase.IDLE else 1 if dyn[Slot.PLACE, i] == Place.GPU else 0
        keys[k] = (rank << 40) + units_of(dyn, i)
    # Few are hidden: dropping the least (the last of equals) one by one takes less than sorting.
    for shown in range(n - 1, MAX_ROWS - 1, -1):
        least = 0
        for k in range(1, shown + 1):
            if keys[k] <= keys[least]:
                least = k
        for k in range(least, shown):
            order[k], keys[k] = order[k + 1], keys[k + 1]
    return MAX_ROWS, hidden


@uncounted
def _write_facts(c, i, row):
    """The fields that any weighing needs."""
    dyn, p, kind = c.dyn, c.static[Static.PREFIX, i], c.dyn[Slot.KIND, i]
    row.slot, row.kind, row.work_class = i, kind, c.static[Static.CLASS, i]
    row.status = dyn[Slot.PHASE, i]
    row.pages = c.prefixes[p].pages if kind == Kind.SYSTEM else dyn[Slot.PAGES, i]
    row.level, row.place = dyn[Slot.LEVEL, i], dyn[Slot.PLACE, i]
    if kind == Kind.REASONING or kind == Kind.EPHEMERAL:
        row.reload = 0
    elif kind == Kind.SYSTEM:
        row.reload = prefill_us(c.constants, c.prefixes[p].tokens, 0) // 100_000
    else:
        past = c.prefixes[p].tokens if p >= 0 else 0
        row.reload = prefill_us(c.constants, dyn[Slot.TOKENS, i], past) // 100_000


@uncounted
def _write_history(c, i, row):
    """The fields that say how an entry was used and how safe it is to evict."""
    dyn, t = c.dyn, c.counters[Counter.WINDOW]
    p = c.static[Static.PREFIX, i]
    turn = c.static[Static.FIRST_TURN, i] + dyn[Slot.TURN, i]
    if dyn[Slot.PHASE, i] == Phase.DECODE and c.turns[turn].dead_kind == Dead.REASONING:
        row.status = Status.REASONING
    row.priority = c.static[Static.PRIORITY, i] // 10
    row.progress = progress(c, i) // 10
    row.value = eviction_value(c, i, t) // 10
    row.idle, row.uses, row.age = t - dyn[Slot.LAST, i], dyn[Slot.COUNT, i], t - dyn[Slot.BORN, i]
    row.prefix = p if dyn[Slot.REF, i] else -1
    row.sharers = c.prefixes[p].refs if dyn[Slot.REF, i] else 0


@uncounted
def _write_totals(c, head):
    """The whole head but for the number of rows."""
    dyn, ledger, counters = c.dyn, c.ledger, c.counters
    head.step, head.left = counters[Counter.WINDOW], c.constants.steps - counters[Counter.WINDOW]
    head.used, head.budget, head.gpu = ledger[Tier.GPU, 1], c.constants.budget_units, c.constants.gpu_units
    head.cpu_used, head.cpu = ledger[Tier.CPU, 1], ledger[Tier.CPU, 0]
    head.above = counters[Counter.ABOVE_95]
    head.link_units = c.constants.step_us * 1000 // max(c.constants.link_ns, 1)
    head.queued = head.need = head.need_cpu = head.need_first = head.wait_first = 0
    first = np.int64(1) << 60
    backlog = 0
    for i in range(c.constants.sessions):
        if dyn[Slot.PHASE, i] == Phase.QUEUED:
            need = demand(c, i)
            head.queued += 1
            head.need += need
            if dyn[Slot.PLACE, i] == Place.CPU:
                head.need_cpu += need
            if dyn[Slot.ORDER, i] < first:
                first = dyn[Slot.ORDER, i]
                head.need_first = need
                head.wait_first = dyn[Slot.WAIT_US, i] * 10 // c.constants.step_us
        elif dyn[Slot.PHASE, i] == Phase.PREFILL:
            backlog += dyn[Slot.TODO_US, i]
    head.backlog_ms = backlog // 1000
    head.growth = head.queued - counters[Counter.QUEUE_BEFORE]


@uncounted
def look(scn, live, rows, head, slots, whole):
    """Fills the view like `view`, as records; `slots`, int64 ``[2, slots + 1]``, is to work in.

    Without `whole` it leaves out what only deciders without foresight read: half the work.
    """
    c = columns_of(scn, live)
    n, hidden = _visible(c.dyn, c.constants.slots, slots[0], slots[1])
    for k in range(n):
        _write_facts(c, slots[0, k], rows[k])
        if whole:
            _write_history(c, slots[0, k], rows[k])
    head.rows, head.hidden = n, hidden
    _write_totals(c, head)
    return n


@uncounted
def look_again(scn, live, rows, head, first, last):
    """Writes rows `first` to `last` - 1 of a view, and its totals, anew in the middle of a window.

    They show the same entries; those that are gone have `Place.NOWHERE`.
    """
    c = columns_of(scn, live)
    for k in range(first, last):
        i = rows[k].slot
        _write_facts(c, i, rows[k])
        _write_history(c, i, rows[k])
    _write_totals(c, head)


@njit
def view(scn, live, rows, head):
    """Fills the view that a decider takes, buffers of `new_view`; returns the number of rows."""
    slots = np.empty((2, constants_of(scn).slots + 1), np.int64)
    return look(scn, live, rows_of(rows), head_of(head), slots, True)


def new_view() -> tuple[np.ndarray, np.ndarray]:
    """Empty buffers for `view`: rows int64 ``[32, 16]`` and head int64 ``[18]``."""
    return np.zeros((MAX_ROWS, cells(ROW)), np.int64), np.zeros(cells(HEAD), np.int64)

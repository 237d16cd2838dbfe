"""The view as numbers for a network: what `text` writes down as JSON, as one float32 vector.

    head      `HeadCell`, totals
    queue     `QueueCell` of each of the first six in the queue
    rows      `RowCell` of each of 32 entries; zeros where there is none

All lie in [0, 1], but for the queue's growth, which lies in [-1, 1]. Memory is a share of the budget; what
has no bound, such as an age, is written as x / (x + a typical value)."""

from enum import IntEnum
from functools import partial

import numpy as np

from kv_cache_rl.core.precision import WORK_CLASSES
from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.eviction.admission import demand, in_order
from kv_cache_rl.sim.eviction.columns import UNITS_PER_PAGE, Phase, Place, Slot
from kv_cache_rl.sim.eviction.observe import BITS, MAX_ROWS, Status
from kv_cache_rl.sim.eviction.spec import BLOCK_TYPES, MAX_CALLS_PER_STEP, WAIT_LIMIT_STEPS
from kv_cache_rl.sim.eviction.text import TOP


class HeadCell(IntEnum):
    """Totals, at the beginning of the vector."""

    LEFT = 0  # windows to come, of all
    MADE = 1  # calls made in this window, of those that count
    USED = 2
    BUDGET = 3  # of the GPU's memory
    CPU_USED = 4  # of the CPU pool
    CPU_FREE = 5
    LINK = 6  # what the link moves in a window
    QUEUED = 7  # over typical 8, like what is not shown
    GROWTH = 8  # over typical 4, with its sign
    NEED = 9  # of the queue, over one budget
    NEED_CPU = 10
    NEED_FIRST = 11
    WAIT_FIRST = 12  # of the longest wait that is allowed
    BACKLOG = 13  # prefill still to do, over typical 4 s
    ABOVE = 14  # windows above 95 % of the budget, of all
    HIDDEN = 15


class QueueCell(IntEnum):
    """One of the queue, the first in it first."""

    NEED = 0  # units that it lacks, of a quarter of the budget
    WAITED = 1  # of the longest wait that is allowed


class RowCell(IntEnum):
    """One entry. `KIND`, `CLASS` and `STATUS` begin cells of which one is 1."""

    PRESENT = 0  # 0 also for what was freed in this window
    KIND = 1
    CLASS = KIND + len(BLOCK_TYPES)
    STATUS = CLASS + len(WORK_CLASSES)
    GPU = STATUS + len(Status)
    CPU = GPU + 1
    BITS = CPU + 1  # of 16
    SIZE = BITS + 1  # of a quarter of the budget, the largest context that the generator makes
    WHOLE = SIZE + 1  # the same at 16 bits
    PRIORITY = WHOLE + 1
    PROGRESS = PRIORITY + 1
    VALUE = PROGRESS + 1
    IDLE = VALUE + 1  # over typical 8 windows, like the age
    USES = IDLE + 1  # over typical 8
    AGE = USES + 1
    PREFIX = AGE + 1  # number of the shared prefix that it holds from 1 on, of 8
    SHARERS = PREFIX + 1  # over typical 8
    RELOAD = SHARERS + 1  # over typical 5 s


CELLS_OF_ROW, CELLS_IN_QUEUE = RowCell.RELOAD + 1, len(QueueCell)
FIRST_IN_QUEUE = len(HeadCell)
FIRST_ROW = FIRST_IN_QUEUE + TOP * CELLS_IN_QUEUE
NUMBERS = FIRST_ROW + MAX_ROWS * CELLS_OF_ROW
"""Length of the vector."""
PREFIXES = 8
_BITS = np.array(BITS)


def parts(observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Totals with the queue ``[..., 28]`` and entries ``[..., 32, 30]`` of vectors ``[..., 988]``: views.

    For networks that treat all entries alike.
    """
    shape = (*observed.shape[:-1], MAX_ROWS, CELLS_OF_ROW)
    return observed[..., :FIRST_ROW], observed[..., FIRST_ROW:].reshape(shape)


_fast = partial(uncounted, error_model="numpy")
"""Without a test for zero at each of the 400 divisions; no divisor here is zero."""


@_fast
def over(value, typical):
    """A count without a bound, in [0, 1): a half at the typical value."""
    return value / (value + typical)


@_fast
def write_totals(c, head, made, each, queue, observed):
    """Writes the head and the queue of a view into `observed`, float32 ``[NUMBERS]``.

    Args:
        made: calls of the window so far.
        each, queue: int64 ``[sessions]``, to work in.
    """
    _write_head(c, head, made, observed)
    for i in range(c.constants.sessions):
        each[i] = i
    waiting = in_order(c.dyn, each, c.constants.sessions, Phase.QUEUED, queue)
    for k in range(TOP):
        at, need, waited = FIRST_IN_QUEUE + k * CELLS_IN_QUEUE, 0.0, 0.0
        if k < waiting:
            need = _of_quarter(c, demand(c, queue[k]))
            wait = c.dyn[Slot.WAIT_US, queue[k]] / (WAIT_LIMIT_STEPS * c.constants.step_us)
            waited = min(wait, 1.0)
        observed[at + QueueCell.NEED], observed[at + QueueCell.WAITED] = need, waited


@_fast
def _of_quarter(c, units):
    """Units as a share of a quarter of the budget."""
    return min(max(4 * units / c.constants.budget_units, 0.0), 1.0)


@_fast
def _write_head(c, head, made, observed):
    budget = head.budget
    observed[HeadCell.LEFT] = head.left / c.constants.steps
    observed[HeadCell.MADE] = made / MAX_CALLS_PER_STEP
    observed[HeadCell.USED] = min(head.used / budget, 1.0)
    observed[HeadCell.BUDGET] = budget / head.gpu
    observed[HeadCell.CPU_USED] = head.cpu_used / max(head.cpu, 1)
    observed[HeadCell.CPU_FREE] = min((head.cpu - head.cpu_used) / budget, 1.0)
    observed[HeadCell.LINK] = min(head.link_units / budget, 1.0)
    observed[HeadCell.QUEUED] = over(head.queued, 8)
    observed[HeadCell.GROWTH] = head.growth / (abs(head.growth) + 4)
    # What a session lacks may be negative: its cache can hold more than its next turn needs.
    observed[HeadCell.NEED] = over(max(head.need, 0), budget)
    observed[HeadCell.NEED_CPU] = over(max(head.need_cpu, 0), budget)
    observed[HeadCell.NEED_FIRST] = _of_quarter(c, head.need_first)
    observed[HeadCell.WAIT_FIRST] = min(head.wait_first / (10 * WAIT_LIMIT_STEPS), 1.0)
    observed[HeadCell.BACKLOG] = over(head.backlog_ms, 4000)
    observed[HeadCell.ABOVE] = head.above / c.constants.steps
    observed[HeadCell.HIDDEN] = over(head.hidden, 8)


@_fast
def write_row(c, row, k, observed):
    """Writes row `k` of a view into `observed`; zeros where the entry is gone."""
    cells = observed[FIRST_ROW + k * CELLS_OF_ROW : FIRST_ROW + (k + 1) * CELLS_OF_ROW]
    cells[:] = 0.0
    if row.place == Place.NOWHERE:
        return
    cells[RowCell.PRESENT] = 1.0
    cells[RowCell.KIND + row.kind] = 1.0
    cells[RowCell.CLASS + row.work_class] = 1.0
    cells[RowCell.STATUS + row.status] = 1.0
    cells[RowCell.GPU if row.place == Place.GPU else RowCell.CPU] = 1.0
    cells[RowCell.BITS] = _BITS[row.level] / 16
    cells[RowCell.SIZE] = _of_quarter(c, row.pages * (UNITS_PER_PAGE >> row.level))
    cells[RowCell.WHOLE] = _of_quarter(c, row.pages * UNITS_PER_PAGE)
    cells[RowCell.PRIORITY] = row.priority / 100
    cells[RowCell.PROGRESS] = row.progress / 100
    cells[RowCell.VALUE] = row.value / 100
    cells[RowCell.IDLE] = over(max(row.idle, 0), 8)
    cells[RowCell.USES] = over(max(row.uses, 0), 8)
    cells[RowCell.AGE] = over(max(row.age, 0), 8)
    cells[RowCell.PREFIX] = min((row.prefix + 1) / PREFIXES, 1.0)
    cells[RowCell.SHARERS] = over(row.sharers, 8)
    cells[RowCell.RELOAD] = over(row.reload, 50)

"""The view as numbers for a network: what `text` writes down as JSON, as one float32 vector.

    head      `HeadCell`, totals
    queue     `QueueCell` of each of the first six in the queue
    rows      `RowCell` of each of 32 entries; zeros where there is none

All lie in [0, 1], but for the queue's growth, which lies in [-1, 1]. Memory is a share of the budget; what
has no bound, such as an age, is written as x / (x + a typical value)."""

from enum import IntEnum

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


CELLS_OF_ROW = RowCell.RELOAD + 1
FIRST_IN_QUEUE = len(HeadCell)
FIRST_ROW = FIRST_IN_QUEUE + TOP * len(QueueCell)
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


@uncounted
def over(value, typical):
    """A count without a bound, in [0, 1): a half at the typical value."""
    return value / (value + typical)


@uncounted
def write_numbers(c, rows, head, made, everyone, queue, observed):
    """Writes the view that `look` or `look_again` left into `observed`, float32 ``[NUMBERS]``.

    Args:
        made: calls of the window so far.
        everyone, queue: int64 ``[sessions]``, to work in.
    """
    observed[:] = 0.0
    _write_head(c, head, made, observed)
    for i in range(c.constants.sessions):
        everyone[i] = i
    waiting = in_order(c.dyn, everyone, c.constants.sessions, Phase.QUEUED, queue)
    for k in range(min(waiting, TOP)):
        at, waited = FIRST_IN_QUEUE + k * len(QueueCell), c.dyn[Slot.WAIT_US, queue[k]]
        observed[at + QueueCell.NEED] = _of_quarter(c, demand(c, queue[k]))
        observed[at + QueueCell.WAITED] = min(waited / (WAIT_LIMIT_STEPS * c.constants.step_us), 1.0)
    for k in range(head.rows):
        if rows[k].place != Place.NOWHERE:
            _write_row(c, rows[k], FIRST_ROW + k * CELLS_OF_ROW, observed)


@uncounted
def _of_quarter(c, units):
    """Units as a share of a quarter of the budget."""
    return min(max(4 * units / c.constants.budget_units, 0.0), 1.0)


@uncounted
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


@uncounted
def _write_row(c, row, at, observed):
    observed[at + RowCell.PRESENT] = 1.0
    observed[at + RowCell.KIND + row.kind] = 1.0
    observed[at + RowCell.CLASS + row.work_class] = 1.0
    observed[at + RowCell.STATUS + row.status] = 1.0
    observed[at + RowCell.GPU] = row.place == Place.GPU
    observed[at + RowCell.CPU] = row.place == Place.CPU
    observed[at + RowCell.BITS] = _BITS[row.level] / _BITS[0]
    observed[at + RowCell.SIZE] = _of_quarter(c, row.pages * (UNITS_PER_PAGE >> row.level))
    observed[at + RowCell.WHOLE] = _of_quarter(c, row.pages * UNITS_PER_PAGE)
    observed[at + RowCell.PRIORITY] = row.priority / 100
    observed[at + RowCell.PROGRESS] = row.progress / 100
    observed[at + RowCell.VALUE] = row.value / 100
    observed[at + RowCell.IDLE] = over(max(row.idle, 0), 8)
    observed[at + RowCell.USES] = over(max(row.uses, 0), 8)
    observed[at + RowCell.AGE] = over(max(row.age, 0), 8)
    observed[at + RowCell.PREFIX] = min((row.prefix + 1) / PREFIXES, 1.0)
    observed[at + RowCell.SHARERS] = over(row.sharers, 8)
    observed[at + RowCell.RELOAD] = over(row.reload, 50)

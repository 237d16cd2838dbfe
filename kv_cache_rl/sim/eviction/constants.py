"""The constants of the weighing: one float64 vector, each with its name, unit and meaning.

`WRITTEN` are those chosen by hand, with which `weigh_value` and the oracle's proposals weigh. `tuned`
has the same ones optimised. Compiled code reads them by name from a `CONSTANTS` record: `w.swap`,
`w.int8[row.work_class]`."""

from dataclasses import dataclass

import numpy as np

from kv_cache_rl.core.precision import LADDER, PRECISIONS, WORK_CLASSES
from kv_cache_rl.sim.views import record

_INT8, _INT4 = (
    tuple(
        PRECISIONS[LADDER[level]].loss[work] - PRECISIONS[LADDER[level - 1]].loss[work]
        for work in WORK_CLASSES
    )
    for level in (1, 2)
)


@dataclass(frozen=True, slots=True)
class Constant:
    """One constant of the weighing, or one for each class of work."""

    name: str
    unit: str
    about: str
    written: float | tuple[float, ...]
    """As chosen by hand."""
    start: float | None = None
    """Where a search begins that finds nothing to scale in the hand-written value; None: there."""
    signed: bool = False
    """Whether it may be negative."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Its name, or one name for each class of work."""
        if isinstance(self.written, tuple):
            return tuple(f"{self.name}_{work}" for work in WORK_CLASSES)
        return (self.name,)

    @property
    def field(self) -> tuple:
        """Its field of the record."""
        return (self.name, np.float64, len(self.labels)) if len(self.labels) > 1 else (self.name, np.float64)


_FAILED, _BUDGET, _LINK = "failed requests", "thousandths of the budget", "windows of the link"

TABLE = (
    Constant("must", _BUDGET, "kept free beside what the queue needs, at any cost", 60.0, signed=True),
    Constant("wish", _BUDGET, "kept free beside what the queue needs, where that is cheap", 220.0),
    Constant("queue", "1", "share of the queue's need that counts", 1.0),
    Constant("cheap", "failed requests per budget freed", "up to which freeing is cheap", 0.3),
    Constant("swap", "failed requests per window of the link", "delay of a swap-in", 0.3),
    Constant("swap_fixed", _LINK, "what every swap takes, whatever its size", 0.2),
    Constant("recompute", "failed requests per second of prefill", "cost of computing again", 0.3),
    Constant("backlog", "1 per 4 s of prefill still to do", "by how much that is dearer then", 1.0),
    Constant("pause", _FAILED, "a window that is not decoded", 0.01),
    Constant("interrupt", _FAILED, "a running request sent to the CPU", 2.0),
    Constant("int8", _FAILED, "wrong answers at 8 bits, by class of work", _INT8),
    Constant("int4", _FAILED, "wrong answers at 4 bits beyond those at 8, by class of work", _INT4),
    Constant("value", "1", "how far a shown eviction value of 1 lowers the importance", 1.0),
    Constant("priority", "1", "importance of the highest priority less that of the lowest", 0.6, signed=True),
    Constant("least", "1", "importance below which nothing falls", 0.0, start=0.02),
    Constant("tool", "1", "chance that an entry returns which waits for a tool", 1.0, start=0.8),
    Constant("tool_fade", "1 per window", "how fast that falls while it is idle", 0.0, start=0.1),
    Constant("ended", "1", "chance that an entry returns whose turn has ended", 1.0, start=0.2),
    Constant("ended_fade", "1 per window", "how fast that falls while it is idle", 0.0, start=0.05),
    Constant("horizon", "windows", "left in the episode when half of the returns still come", 0.0, start=0.5),
    Constant("cpu_room", _LINK, "of the CPU pool that evictions from it keep free", 1.0),
    Constant("cpu_worth", "failed requests per budget", "what that room is worth", 0.0, start=0.1),
)

CONSTANTS = record(*(one.field for one in TABLE))
LABELS = tuple(label for one in TABLE for label in one.labels)
"""One name for each number of the vector."""

WRITTEN = np.concatenate([np.atleast_1d(np.array(one.written)) for one in TABLE])
START = np.concatenate(
    [np.atleast_1d(np.array(one.written if one.start is None else one.start)) for one in TABLE]
)
"""Where tuning begins: the hand-written constants, with beliefs about returns like those of `lookahead`."""
SIGNED = np.array([one.signed for one in TABLE for _ in one.labels])

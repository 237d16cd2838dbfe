"""The books, counted anew: every block in one place, every row in the list where it belongs."""

import numpy as np

from kv_cache_rl.core import pool
from kv_cache_rl.sim.serving.state import (
    ACTIVE,
    AFTER,
    BEFORE,
    BLOCKS,
    COUNTS,
    CPU,
    CPU_POOL,
    ENTERING,
    FINISHED,
    GPU,
    GPU_POOL,
    IDLE,
    LANES,
    LEAVING,
    MADE,
    NEXT,
    NOWHERE,
    PAGES,
    PROMPT,
    QUEUED,
    QUEUES,
    SERVICE,
    STATUS,
    STORED,
    TOKENS,
    VIP,
    WHERE,
    Columns,
)


def audit(columns: Columns) -> None:
    """Compares ledgers, lists and lanes with what the rows say.

    Raises:
        core.pool.LedgerError: they differ; a bug in the simulator, never the user's doing.
    """
    rows, book = columns.rows, columns.book
    pool.check(book[: CPU_POOL + 1], np.array([rows[:, BLOCKS].sum(), rows[:, PAGES].sum()]))
    for tier in (GPU_POOL, CPU_POOL):
        demand(
            book[tier, pool.USED] <= book[tier, pool.CAPACITY], f"tier {tier} holds more than its capacity"
        )
    where, status, vip = rows[:, WHERE], rows[:, STATUS], columns.traffic[:, VIP]
    demand(
        np.all((rows[:, BLOCKS] > 0) == np.isin(where, (GPU, LEAVING, ENTERING))),
        "GPU blocks without a row on the GPU",
    )
    demand(
        np.all((rows[:, PAGES] > 0) == np.isin(where, (LEAVING, CPU, ENTERING))),
        "CPU blocks without a row on the CPU",
    )
    demand(np.all((rows[:, TOKENS] > 0) <= (where != NOWHERE)), "tokens without a place")
    for kind in range(2):
        expected = {
            QUEUES + kind: status == QUEUED,
            IDLE + kind: (status == FINISHED) & (where == GPU),
            STORED + kind: (status == FINISHED) & (where == CPU),
        }
        for which, belongs in expected.items():
            listed = members(columns, which)
            demand(len(listed) == book[COUNTS + which - QUEUES, 0], f"list {which} miscounts itself")
            demand(
                sorted(listed) == np.flatnonzero(belongs & (vip == kind)).tolist(),
                f"list {which} holds the wrong rows",
            )
    in_service = columns.running[0, : book[SERVICE, 0]]
    demand(
        sorted(in_service.tolist()) == np.flatnonzero(status == ACTIVE).tolist(),
        "rows in service are not the active ones",
    )
    goal = columns.traffic[:, PROMPT] + rows[:, MADE]
    decoding = (status == ACTIVE) & (where == GPU) & (rows[:, TOKENS] == goal)
    demand(decoding.sum() == book[SERVICE, 1], "decoding rows are miscounted")
    for lane, state in enumerate((LEAVING, ENTERING)):
        demand(
            sorted(lane_of(columns, lane)) == np.flatnonzero(where == state).tolist(),
            f"lane {lane} holds the wrong rows",
        )


def demand(holds: bool | np.bool_, otherwise: str) -> None:
    if not holds:
        raise pool.LedgerError(otherwise)


def members(columns: Columns, which: int) -> list[int]:
    """Rows of a list, first to last; both directions have to agree."""
    found, row, before = [], int(columns.book[which, 0]), -1
    while row >= 0:
        demand(
            columns.rows[row, BEFORE] == before and len(found) <= len(columns.rows),
            f"list {which} is broken at row {row}",
        )
        found.append(row)
        before, row = row, int(columns.rows[row, AFTER])
    demand(columns.book[which, 1] == before, f"list {which} ends elsewhere")
    return found


def lane_of(columns: Columns, lane: int) -> list[int]:
    """Rows on a lane, next to land first."""
    found, row = [], int(columns.book[LANES + lane, 0])
    while row >= 0 and len(found) <= len(columns.rows):
        found.append(row)
        row = int(columns.rows[row, NEXT])
    return found

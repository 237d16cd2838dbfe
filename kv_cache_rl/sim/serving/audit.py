"""The books, counted anew: every block in one place, every row in the list where it belongs."""

import numpy as np

from kv_cache_rl.core import pool
from kv_cache_rl.sim.serving.columns import (
    ACTIVE,
    CPU,
    ENTERING,
    FINISHED,
    GPU,
    LEAVING,
    NOWHERE,
    QUEUED,
    Columns,
)
from kv_cache_rl.sim.serving.state import State


def check(state: State) -> None:
    """Compares ledgers, lists and lanes with what the rows say.

    Raises:
        core.pool.LedgerError: they differ; a bug in the simulator, never the user's doing.
    """
    c = state.columns
    rows, book, requests = c.rows, c.book, c.requests
    pool.check(book["pools"], np.array([rows["blocks"].sum(), rows["cpu_blocks"].sum()]))
    for tier, (capacity, used) in enumerate(book["pools"].tolist()):
        demand(used <= capacity, f"tier {tier} holds more than its capacity")
    where, status, vip = rows["where"], rows["status"], requests["vip"]
    on_gpu, on_cpu = np.isin(where, (GPU, LEAVING, ENTERING)), np.isin(where, (LEAVING, CPU, ENTERING))
    demand(np.all((rows["blocks"] > 0) == on_gpu), "GPU blocks without a row on the GPU")
    demand(np.all((rows["cpu_blocks"] > 0) == on_cpu), "CPU blocks without a row on the CPU")
    demand(np.all((rows["tokens"] > 0) <= (where != NOWHERE)), "tokens without a place")
    expected = {
        "queues": status == QUEUED,
        "idle": (status == FINISHED) & (where == GPU),
        "stored": (status == FINISHED) & (where == CPU),
    }
    for name, belongs in expected.items():
        for kind in range(2):
            listed = members(c, name, kind)
            demand(len(listed) == book[name][kind]["count"], f"list {name} {kind} miscounts itself")
            right = np.flatnonzero(belongs & (vip == kind)).tolist()
            demand(sorted(listed) == right, f"list {name} {kind} holds the wrong rows")
    for kind in range(2):
        demand_sums(c, kind)
    in_service = c.running[: book["serving"]]
    active = np.flatnonzero(status == ACTIVE).tolist()
    demand(sorted(in_service.tolist()) == active, "rows in service are not the active ones")
    decoding = (status == ACTIVE) & (where == GPU) & (rows["tokens"] == requests["prompt"] + rows["made"])
    demand(decoding.sum() == book["decoding"], "decoding rows are miscounted")
    for way, moving in enumerate((LEAVING, ENTERING)):
        right = np.flatnonzero(where == moving).tolist()
        demand(sorted(on_lane(c, way)) == right, f"lane {way} holds the wrong rows")
        crossing = rows["blocks"][right].sum()
        demand(crossing == book["lanes"][way]["blocks"], f"blocks on lane {way} are miscounted")


def demand_sums(c: Columns, vip: int) -> None:
    """Compares the sums over a class's idle caches, and the largest, with the caches."""
    listed = members(c, "idle", vip)
    blocks, since = c.rows["blocks"][listed], c.rows["since"][listed]
    sums = blocks.sum(), (blocks * blocks).sum(), since.sum(), (since * since).sum()
    demand(tuple(c.book["idle_sums"][vip]) == sums, f"sums over idle caches {vip} are wrong")
    largest = c.book["largest"][vip]
    first = listed[int(blocks.argmax())] if listed else -1
    demand(largest["idle_unknown"] or largest["idle"] == first, f"another idle cache {vip} is the largest")


def demand(holds: bool | np.bool_, otherwise: str) -> None:
    """Raises LedgerError with the text unless the condition holds."""
    if not holds:
        raise pool.LedgerError(otherwise)


def members(c: Columns, name: str, vip: int) -> list[int]:
    """Rows of one of the book's lists, first to last; both directions have to agree."""
    ends = c.book[name][vip]
    found, row, before = [], int(ends["first"]), -1
    while row >= 0:
        in_order = c.rows[row]["before"] == before and len(found) <= len(c.rows)
        demand(in_order, f"list {name} {vip} is broken at row {row}")
        found.append(row)
        before, row = row, int(c.rows[row]["after"])
    demand(ends["last"] == before, f"list {name} {vip} ends elsewhere")
    return found


def on_lane(c: Columns, way: int) -> list[int]:
    """Rows on a lane, next to land first."""
    found, row = [], int(c.book["lanes"][way]["first"])
    while row >= 0 and len(found) <= len(c.rows):
        found.append(row)
        row = int(c.rows[row]["next"])
    return found

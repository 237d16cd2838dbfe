"""Sweeps: workloads x scenarios x policies x seeds, defined in TOML, resumed where they stopped, the same on
any number of cores.

definition --cells--> [cell] --spread over cores or Ray--> journal (rows.jsonl) --> results.json, results.csv,
..."""

from collections.abc import Callable
from pathlib import Path

from kv_cache_rl.experiments.hierarchy.artifacts import write_artifacts
from kv_cache_rl.experiments.hierarchy.cells import Cell, run_cell, traced
from kv_cache_rl.experiments.hierarchy.comparisons import compared
from kv_cache_rl.experiments.hierarchy.definition import Sweep
from kv_cache_rl.experiments.journal import Journal
from kv_cache_rl.experiments.workers import spread

WORKLOADS_IN_MEMORY = 4
"""Files that forked workers inherit instead of reading them again."""


def run_sweep(
    sweep: Sweep,
    folder: str | Path,
    workers: int = 1,
    ray: str | None = None,
    command: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict]:
    """Replays the cells that the folder does not hold yet, and writes its artifacts; returns all rows in
    order.

    `progress(done, total)` is called as rows are finished. Rows do not depend on `workers` or `ray`.

    Raises:
        JournalError, WorkerError, OSError: the folder is in use or damaged, a worker died, Ray does not
            answer. Finished rows stay in the folder.
    """
    cells = sweep.cells()
    keys = [cell.key for cell in cells]
    with Journal(Path(folder)) as journal:
        missing = [cell for cell, key in zip(cells, keys, strict=True) if key not in journal.rows]
        before = len(cells) - len(missing)
        progress(before, len(cells))
        if missing and ray is None:
            _inherit(missing, workers)
        kept: set[int] = set()

        def keep(index: int, row: dict) -> None:
            journal.add(missing[index].key, row)
            kept.add(index)
            progress(before + len(kept), len(cells))

        try:
            spread(run_cell, missing, keep, workers, ray)
        finally:
            journal.settle()
        rows = compared([journal.rows[key] for key in keys])
        journal.order(keys)
    write_artifacts(Path(folder), sweep, rows, command)
    return rows


def _inherit(cells: list[Cell], workers: int) -> None:
    """Reads the files once and compiles once, before workers are forked."""
    files = dict.fromkeys(cell.source for cell in cells if cell.source.file is not None)
    for source in list(files)[:WORKLOADS_IN_MEMORY] if workers > 1 else ():
        traced(source, next(cell.seed for cell in cells if cell.source == source))
    if workers > 1:
        warm_up()


def warm_up() -> None:
    """Loads or compiles the engine in this process."""
    from kv_cache_rl.experiments.hierarchy.sources import from_workload
    from kv_cache_rl.sim.hierarchy.engine import run
    from kv_cache_rl.sim.hierarchy.peer.spec import laboratory

    run(from_workload("chat_continuation").trace(), laboratory(), "lru")

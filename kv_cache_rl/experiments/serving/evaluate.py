"""Agents against each other in the serving world: every agent on every task, on the same held-out seeds.

cells --spread over cores--> journal (rows.jsonl) --> rows, in order; an interrupted evaluation goes on where
it stopped"""

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kv_cache_rl import __version__
from kv_cache_rl.core.errors import raised
from kv_cache_rl.experiments.journal import Journal
from kv_cache_rl.experiments.workers import spread
from kv_cache_rl.files import digest_of
from kv_cache_rl.sim.serving.score import report
from kv_cache_rl.sim.serving.seeds import SEEDS
from kv_cache_rl.sim.serving.spec import Scenario, ServingError, model_of
from kv_cache_rl.sim.serving.state import State
from kv_cache_rl.traces import files
from kv_cache_rl.traces.reading import located

Play = Callable[[str, Scenario, int], State | tuple[State, dict[str, Any]]]
"""(name of an agent, scenario, seed) -> the end of its episode, or that and what else its row says.

A function of a module, so that workers find it.
"""
Spread = Callable[[Callable[[Any], Any], Sequence[Any], Callable[[int, Any], None], int], None]
"""How the episodes are divided among so many workers: as `workers.spread`."""
PROVISIONAL = "provisional"
"""The key of a row that is not kept: its episode is played anew the next time."""

DECIDING = (
    *("core", "theory", "traces", "agents", "sim/serving", "search/serving", "experiments/serving"),
    *("jit.py", "files.py", "tensors.py", "lazy.py", "sim/compiled.py", "sim/views.py"),
    *("adapters/playing.py", "cli/serving/play.py"),
)
"""Folders and files of the package that decide what a row says."""
LEAST_SEEDS = 20
"""Fewer than these say little."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One episode."""

    agent: str
    scenario: Scenario
    seed: int
    identity: str | None = ""
    """What the agent is beyond its name and this package's code; None: not known."""

    @property
    def key(self) -> str | None:
        """Names the row: the same for the same agent, settings, seed, trace and code.

        None where the agent may be another the next time.
        """
        if self.identity is None:
            return None
        model = asdict(model_of(self.scenario.model))  # a file may say something else the next time
        parts = [self.agent, self.identity, asdict(self.scenario), model, self.seed]
        settings = json.dumps(parts, sort_keys=True, default=str)
        trace = "" if self.scenario.trace is None else _digest_of(self.scenario.trace)
        return hashlib.sha256(f"{settings} {trace} {code_digest()}".encode()).hexdigest()[:24]


@functools.lru_cache(16)
def _digest_of(path: str) -> str:
    return files.digest(located(path)[0])


@functools.lru_cache(1)
def code_digest() -> str:
    """Digest of the package's version and of all code and weights that decide what a row says."""
    return digest_of(Path(__file__).parents[2], DECIDING, __version__, pattern="*")


def held_out(count: int) -> tuple[int, ...]:
    """The first so many seeds that no agent learns from.

    Raises:
        ServingError: there are fewer.
    """
    if not 1 <= count <= len(SEEDS["test"]):
        raise ServingError(
            f"{count} seeds asked for; give a number from 1 to {len(SEEDS['test'])}, which are held out"
        )
    return tuple(SEEDS["test"][:count])


def run_cell(cell: Cell, play: Play) -> dict:
    """The row of a cell: the report, and the work that arrived.

    An agent that fails is a row with an `error`.
    """
    head: dict[str, Any] = {"agent": cell.agent, "task": cell.scenario.task, "seed": cell.seed}
    try:
        played = play(cell.agent, cell.scenario, cell.seed)
    except (Exception, SystemExit) as wrong:
        return {**head, "error": raised(wrong), "report": None, "work_arrived": None}
    state, also = played if isinstance(played, tuple) else (played, {})
    requests = state.columns.requests
    arrived = int(requests["prompt"].sum() + requests["output"].sum())
    return {**head, "error": None, "report": report(state).to_json(), "work_arrived": arrived, **also}


def evaluate(
    agents: Sequence[str],
    scenarios: Sequence[Scenario],
    seeds: Sequence[int],
    play: Play,
    folder: str | Path,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
    identity: Callable[[str], str | None] = lambda agent: "",
    spread: Spread = spread,
) -> list[dict]:
    """Plays the episodes that the folder does not hold yet; all rows, in order of task, agent, seed. Failed
    ones are tried again.

    Rows do not depend on `workers`.

    Args:
        progress: called with (done, total) as episodes end.
        identity: name of an agent -> what it is beyond its name and this package's code, such as a digest of
            its code and weights (`experiments.identity`). Rows are kept for equal ones; None: not kept.

    Raises:
        JournalError, WorkerError, OSError: the folder is in use or damaged, or a worker died. Finished rows
            stay in the folder.
    """
    known = {agent: identity(agent) for agent in agents}
    cells = [
        Cell(agent, scenario, seed, known[agent])
        for scenario in scenarios
        for agent in agents
        for seed in seeds
    ]
    keys = [cell.key for cell in cells]
    with Journal(Path(folder)) as journal:
        rows = {k: journal.rows[key] for k, key in enumerate(keys) if key is not None and key in journal.rows}
        missing = [k for k in range(len(cells)) if k not in rows]
        progress(len(rows), len(cells))
        if missing and workers > 1:
            warm_up(agents, scenarios[0], play)

        def keep(index: int, row: dict) -> None:
            k = missing[index]
            rows[k] = row
            if (key := keys[k]) is not None and row["error"] is None and not row.get(PROVISIONAL):
                journal.add(key, row)
            progress(len(rows), len(cells))

        try:
            spread(functools.partial(run_cell, play=play), [cells[k] for k in missing], keep, workers)
        finally:
            journal.settle()
    return [rows[k] for k in range(len(cells))]


def warm_up(agents: Sequence[str], scenario: Scenario, play: Play) -> None:
    """Loads or compiles what the agents need in this process, before workers are forked."""
    short = replace(scenario, ticks=20)
    for agent in agents:
        run_cell(Cell(agent, short, 0), play)

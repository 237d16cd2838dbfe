"""Episodes of an evaluation tick by tick, as Parquet files that `datasets` reads.

DIR/README.md                        the data card: what a row is, every column, how the files were made
DIR/data/TASK-AGENT-SEED.parquet     one episode, a row a tick
DIR/keys.json                        which code, settings and weights each file is of
DIR/plan.json                        which tasks, agents and seeds the folder is of
"""

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kv_cache_rl.experiments.serving.evaluate import Cell
from kv_cache_rl.experiments.serving.log import Tick, ticks
from kv_cache_rl.experiments.workers import spread
from kv_cache_rl.files import read_json, slug, write_json, write_whole
from kv_cache_rl.search.serving.rollout import Decide
from kv_cache_rl.sim.serving.actions import ACTIONS
from kv_cache_rl.sim.serving.dynamics import new_state
from kv_cache_rl.sim.serving.spec import Scenario, ServingError
from kv_cache_rl.sim.serving.state import State

Decider = Callable[[str, State], Decide]
"""(name of an agent, a server before its first decision) -> its decisions. A function of a module."""
COLUMNS = {
    "task": ("string", "the task: easy, medium or hard"),
    "agent": ("string", "what decides"),
    "seed": ("uint64", "draws the traffic; the same seed gives every agent the same requests"),
    "tick": ("int32", "iterations of the engine so far"),
    "clock_s": ("float64", "simulated seconds since the episode began"),
    "gpu_utilization": ("float32", "GPU blocks in use over all; idle caches are in use"),
    "cpu_utilization": ("float32", "CPU blocks in use over all"),
    "free_queue": ("int32", "Free requests that wait"),
    "vip_queue": ("int32", "VIP requests that wait"),
    "active": ("int32", "requests in service"),
    "arrived": ("int32", "requests that have arrived so far"),
    "completed": ("int32", "requests that have finished so far"),
    "actions": ("actions", "decisions before this tick, refused ones too; the last let it pass"),
    "reward": ("float32", "of these decisions together"),
}
"""Column → its type and what it holds, as the tick left the server."""
CARD, DATA, KEYS, PLAN = "README.md", "data", "keys.json", "plan.json"


def features() -> Any:
    """The schema, as `datasets` takes it; actions are labels, whose names it holds."""
    from datasets import ClassLabel, Features, List, Value

    kinds = {"actions": List(ClassLabel(names=list(ACTIONS)))}
    return Features({name: kinds.get(kind) or Value(kind) for name, (kind, _) in COLUMNS.items()})


def plan_of(scenarios: Sequence[Scenario], agents: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """What a folder is of, as JSON gives it back: its card describes one set of files."""
    asked = {"tasks": [one.task for one in scenarios], "agents": list(agents), "seeds": list(seeds)}
    settings = {f"{one.task} {name}": value for one in scenarios for name, value in asdict(one).items()}
    return json.loads(json.dumps(asked | settings, default=str))


def written(
    cells: Sequence[Cell],
    decider: Decider,
    folder: Path,
    command: str,
    plan: Mapping[str, Any],
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """The files of these episodes, in order; those that the folder holds already are not played again.

    Rows do not depend on `workers`.

    Args:
        command: what makes the folder, for its card.
        plan: what the folder is of, by `plan_of`; it stays there, so that another set is not mixed in.
        progress: called with (done, total) as episodes end.

    Raises:
        ServingError: there is no episode, or the names of two agents make the same file.
        OSError, WorkerError: a file cannot be written, or a worker died. Finished ones stay.
    """
    if not cells:
        raise ServingError("telemetry of no episode; name an agent that plays its episodes to their end")
    (folder / DATA).mkdir(parents=True, exist_ok=True)
    known = read_json(folder / KEYS) if (folder / KEYS).exists() else {}
    paths = [folder / DATA / f"{name_of(cell)}.parquet" for cell in cells]
    if len(set(paths)) < len(paths):
        raise ServingError("two agents would write to one file; record one of them in a folder of its own")
    write_json(folder / PLAN, plan)
    todo = [
        k
        for k, cell in enumerate(cells)
        if cell.key is None or known.get(paths[k].name) != cell.key or not paths[k].exists()
    ]
    progress(len(cells) - len(todo), len(cells))

    def keep(index: int, table: bytes) -> None:
        k = todo[index]
        write_whole(paths[k], table)
        known[paths[k].name] = cells[k].key
        write_json(folder / KEYS, known)
        progress(len(cells) - len(todo) + index + 1, len(cells))

    spread(functools.partial(table_of, decider=decider), [cells[k] for k in todo], keep, workers)
    write_whole(folder / CARD, card(cells, command).encode())
    return paths


def name_of(cell: Cell) -> str:
    """What the file of an episode is called."""
    return f"{cell.scenario.task}-{slug(cell.agent, 'agent')}-{cell.seed}"


def table_of(cell: Cell, decider: Decider) -> bytes:
    """An episode as a Parquet file."""
    import io

    from datasets import Dataset

    state = new_state(cell.scenario, cell.seed)
    head = {"task": cell.scenario.task, "agent": cell.agent, "seed": cell.seed}
    rows = [head | row for row in told(ticks(state, decider(cell.agent, state)))]
    columns = {name: [row[name] for row in rows] for name in COLUMNS}
    file = io.BytesIO()
    Dataset.from_dict(columns, features=features()).to_parquet(file)
    return file.getvalue()


def told(played: Iterator[Tick]) -> Iterator[dict[str, Any]]:
    """Every tick as a row."""
    for one in played:
        yield one.to_json()


def card(cells: Sequence[Cell], command: str) -> str:
    """The data card, with the head that `datasets` and the Hub read."""
    tasks, agents = (sorted({value(cell) for cell in cells}) for value in (_task, _agent))
    seeds = sorted({cell.seed for cell in cells})
    scenarios = {cell.scenario.task: cell.scenario for cell in cells}
    lengths = ", ".join(f"{name} {one.ticks:,} nominal ticks" for name, one in sorted(scenarios.items()))
    columns = "\n".join(f"| `{name}` | {kind} | {what} |" for name, (kind, what) in COLUMNS.items())
    labels = ", ".join(f"{number} {name}" for number, name in enumerate(ACTIONS))
    return f"""---
license: apache-2.0
pretty_name: KV-cache serving telemetry
tags: [kv-cache, reinforcement-learning, inference, simulation]
configs:
- config_name: default
  data_files: {DATA}/*.parquet
---

# Telemetry of an evaluation in the serving world

Every iteration of a simulated LLM server with a paged KV cache, under each agent and seed. Traffic is
synthetic or replayed; nothing here is of a real user. The command gives the same rows on any machine.

* made by `{command}`
* tasks: {", ".join(tasks)} ({lengths})
* agents: {", ".join(agents)}
* seeds: {json.dumps(seeds)}

```python
from datasets import load_dataset

ticks = load_dataset("parquet", data_files="{DATA}/*.parquet", split="train")
```

| column | type | meaning |
|---|---|---|
{columns}

`actions` holds labels: {labels}.
"""


def _task(cell: Cell) -> str:
    return cell.scenario.task


def _agent(cell: Cell) -> str:
    return cell.agent

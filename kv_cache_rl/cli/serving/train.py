"""``serving train``: an agent made on the training seeds and chosen by its scores on the selection seeds."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_cache_rl.cli import options
from kv_cache_rl.cli.failures import BadInput, choose
from kv_cache_rl.cli.hierarchy.sweeps import command_line
from kv_cache_rl.cli.options import AsJson, names_of
from kv_cache_rl.cli.serving.options import Tasks, agent
from kv_cache_rl.cli.terminal import Bar, console, print_json
from kv_cache_rl.files import write_json
from kv_cache_rl.reports.tables import plain_table

if TYPE_CHECKING:
    import numpy as np

TRAINABLE = ("qlearning",)
MOST_SEED = 1 << 53
"""Of a training: the table draws from a float64."""


def run_train(
    policy: Annotated[str, agent("What learns: qlearning.")] = "qlearning",
    task: Tasks = None,
    episodes: Annotated[
        int | None, options.episodes("Episodes in all; default: as many as the shipped table.")
    ] = None,
    seed: Annotated[int, options.seed("Which of the training seeds, and what exploration draws.")] = 0,
    out: Annotated[Path, options.out("Folder for the table and its record.")] = Path("runs/serving/train"),
    as_json: AsJson = False,
) -> None:
    """Train an agent, and write its table and how it was made.

    The table is .npz; command, settings, seeds and curve are .json.

    Example: kv-cache-rl serving train --policy qlearning --out runs/serving/train
    """
    from kv_cache_rl.agents.qlearning import Training, seeds_of, train
    from kv_cache_rl.sim.serving.spec import TASKS

    agent = choose("agent to train", policy, TRAINABLE)
    if seed >= MOST_SEED:
        raise BadInput(f"--seed is {seed}; give a whole number below 2**53 = {MOST_SEED}")
    names = tuple(choose("task", name, TASKS) for name in names_of(task))
    usual = Training()
    plan = Training(tasks=names or usual.tasks, episodes=episodes or usual.episodes, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    with Bar(f"training {agent}", as_json) as bar:
        bar(0, plan.episodes)
        table, curve = train(plan, lambda point: bar(point["episode"], plan.episodes))
    record = {"command": command_line(), "training": asdict(plan), "seeds": seeds_of(plan), "curve": curve}
    files = written(out, agent, table, record)
    if as_json:
        print_json({"agent": agent, "files": [str(path) for path in files], **record})
        return
    columns = {"episode": "right", "exploring": "right", "return": "right"} | dict.fromkeys(
        plan.tasks, "right"
    )
    shown = plain_table(
        f"{agent}: scores on {plan.select} selection seeds", columns, "the best line by the mean was kept"
    )
    for point in curve:
        scores = [f"{point['select'][name]:.4f}" for name in plan.tasks]
        shown.add_row(f"{point['episode']:,}", f"{point['epsilon']:.3f}", f"{point['return']:,.1f}", *scores)
    console().print(shown)
    for path in files:
        typer.echo(path)


def written(folder: Path, agent: str, table: "np.ndarray", record: dict) -> tuple[Path, Path]:
    """The files of a trained agent."""
    import numpy as np

    weights, story = folder / f"{agent}.npz", folder / f"{agent}.json"
    np.savez_compressed(weights, table=table.astype(np.float32))
    write_json(story, record)
    return weights, story

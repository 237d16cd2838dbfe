"""``serving train``: an agent made on the training seeds and chosen by its scores on the selection seeds."""

import io
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_cache_rl.cli import options
from kv_cache_rl.cli.failures import BadInput, choose
from kv_cache_rl.cli.options import AsJson, command_line, names_of
from kv_cache_rl.cli.saved import only_writer, stoppable
from kv_cache_rl.cli.serving.options import Tasks, agent
from kv_cache_rl.cli.terminal import Bar, console, print_json
from kv_cache_rl.files import write_json, write_whole
from kv_cache_rl.reports.tables import plain_table

if TYPE_CHECKING:
    import numpy as np

    from kv_cache_rl.agents.qlearning import Progress, Training

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

    The same command goes on with a training that was interrupted, and ends with the same table.

    Example: kv-cache-rl serving train --policy qlearning --out runs/serving/train
    """
    from kv_cache_rl.agents.checkpoint import check_record
    from kv_cache_rl.agents.qlearning import Training, seeds_of
    from kv_cache_rl.sim.serving.spec import TASKS

    agent = choose("agent to train", policy, TRAINABLE)
    if seed >= MOST_SEED:
        raise BadInput(f"--seed is {seed}; give a whole number below 2**53 = {MOST_SEED}")
    names = tuple(choose("task", name, TASKS) for name in names_of(task))
    usual = Training()
    plan = Training(tasks=names or usual.tasks, episodes=episodes or usual.episodes, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    with only_writer(out, "training"):
        check_record(out / f"{agent}.json", plan)
        table, curve = trained(plan, out / f"{agent}.checkpoint", Bar(f"training {agent}", as_json))
        record = {
            "command": command_line(),
            "training": asdict(plan),
            "seeds": seeds_of(plan),
            "curve": curve,
        }
        files = written(out, agent, table, record)
        (out / f"{agent}.checkpoint").unlink(missing_ok=True)
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


def trained(plan: "Training", checkpoint: Path, bar: Bar) -> tuple["np.ndarray", list[dict]]:
    """The table and the curve of a training that goes on from its checkpoint, if there is one."""
    from kv_cache_rl.agents.checkpoint import load, save
    from kv_cache_rl.agents.qlearning import begun, train
    from kv_cache_rl.experiments.serving.evaluate import code_digest

    code = code_digest()
    progress = load(checkpoint, plan, code) or begun(plan)
    if progress.episode:
        typer.echo(
            f"going on after episode {progress.episode:,} of {plan.episodes:,}: {checkpoint}", err=True
        )

    def keep(now: "Progress") -> None:
        save(checkpoint, plan, code, now)
        bar(now.episode, plan.episodes)

    def go_on() -> str:
        saved = f"{bar.done:,} of {bar.total:,} episodes are saved in {checkpoint.parent}"
        return f"{saved}; go on with: {command_line()}"

    with bar, stoppable(checkpoint, go_on):
        bar(progress.episode, plan.episodes)
        return train(plan, progress=progress, keep=keep)


def written(folder: Path, agent: str, table: "np.ndarray", record: dict) -> tuple[Path, Path]:
    """The files of a trained agent."""
    import numpy as np

    weights, story = folder / f"{agent}.npz", folder / f"{agent}.json"
    packed = io.BytesIO()
    np.savez_compressed(packed, table=table.astype(np.float32))
    write_whole(weights, packed.getvalue())
    write_json(story, record)
    return weights, story

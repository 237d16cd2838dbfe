"""``serving train``: an agent made on the training seeds and chosen by its scores on the selection seeds."""

import io
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kv_cache_rl.cli import options
from kv_cache_rl.cli.failures import BadInput, choose
from kv_cache_rl.cli.options import RUNNING, AsJson, command_line, names_of, option
from kv_cache_rl.cli.saved import only_writer, stoppable
from kv_cache_rl.cli.serving.networks import Made, course
from kv_cache_rl.cli.serving.options import Tasks, agent
from kv_cache_rl.cli.terminal import Bar, console, print_json
from kv_cache_rl.files import write_json, write_whole
from kv_cache_rl.reports.tables import plain_table

if TYPE_CHECKING:
    import numpy as np

    from kv_cache_rl.agents.qlearning import Progress, Training

NETWORKS = ("neural", "ppo")
TRAINABLE = ("qlearning", *NETWORKS)
MOST_SEED = 1 << 53
"""Of a training: the table draws from a float64."""


def run_train(
    policy: Annotated[str, agent("What learns: qlearning, neural or ppo.")] = "qlearning",
    task: Tasks = None,
    episodes: Annotated[
        int | None, options.episodes("Of qlearning, in all; default: as many as the shipped table.")
    ] = None,
    rounds: Annotated[
        int | None,
        option(RUNNING, "--rounds", help="Of a network, in all; default: as many as the shipped one.", min=1),
    ] = None,
    learning_rate: Annotated[
        float | None,
        option(
            RUNNING,
            "--learning-rate",
            help="Of a network's rounds that learn by reward; default: that of the shipped one.",
        ),
    ] = None,
    seed: Annotated[int, options.seed("Which of the training seeds, and what exploration draws.")] = 0,
    out: Annotated[Path, options.out("Folder for the weights and their record.")] = Path(
        "runs/serving/train"
    ),
    plot: Annotated[Path | None, options.plot("Draw the training curve")] = None,
    as_json: AsJson = False,
) -> None:
    """Train an agent, and write its weights and how they were made.

    qlearning is a table, .npz. neural (DQN) and ppo (masked PPO) are networks, .safetensors.

    Networks are trained by Stable-Baselines3 and play without it. How they were made is .json.

    The same command goes on with a training that was interrupted, and ends with the same weights.

    Example: kv-cache-rl serving train --agent ppo --out runs/serving/train --plot curve.png

    Then: kv-cache-rl serving evaluate --agent lru,runs/serving/train/ppo.safetensors
    """
    from kv_cache_rl.sim.serving.spec import TASKS

    agent = choose("agent to train", policy, TRAINABLE)
    if seed >= MOST_SEED:
        raise BadInput(f"--seed is {seed}; give a whole number below 2**53 = {MOST_SEED}")
    names = tuple(choose("task", name, TASKS) for name in names_of(task))
    refuse_foreign(agent, {"--rounds": rounds, "--learning-rate": learning_rate}, {"--episodes": episodes})
    options.picture(plot)
    if agent in NETWORKS:
        made = course(agent, names, rounds, learning_rate, seed, out, as_json)
    else:
        made = table(names, episodes, seed, out, as_json)
    if plot is not None:
        from kv_cache_rl.reports.canvas import save
        from kv_cache_rl.reports.serving.training import curve_figure

        made.files.append(save(curve_figure(agent, made.record), plot))
    if as_json:
        print_json({"agent": agent, "files": [str(path) for path in made.files], **made.record})
        return
    tasks = list(made.record["curve"][0]["select"])
    columns = dict.fromkeys(made.columns, "right") | dict.fromkeys(tasks, "right")
    count = made.record["training"]["select"]
    title = f"{agent}: scores on {count} selection seeds"
    shown = plain_table(title, columns, "the best line by the mean was kept")
    for point in made.record["curve"]:
        shown.add_row(*made.cells(point), *(f"{point['select'][name]:.4f}" for name in tasks))
    console().print(shown)
    for path in made.files:
        typer.echo(path)


def refuse_foreign(agent: str, of_networks: dict[str, Any], of_table: dict[str, Any]) -> None:
    """Raises BadInput for an option of the other kind of agent, and a learning rate that is none."""
    foreign, kind = (of_table, "qlearning") if agent in NETWORKS else (of_networks, "neural and ppo")
    for spelling, value in foreign.items():
        if value is not None:
            raise BadInput(f"{spelling} is for {kind}, and {agent} has none; leave it out")
    rate = of_networks["--learning-rate"]
    if rate is not None and not 0 < rate <= 1:
        raise BadInput(f"--learning-rate is {rate}; give a number above 0, at most 1")


def table(names: tuple[str, ...], episodes: int | None, seed: int, out: Path, quiet: bool) -> Made:
    """The trained table of qlearning."""
    from kv_cache_rl.agents.checkpoint import check_record
    from kv_cache_rl.agents.qlearning import Training, seeds_of

    agent, usual = "qlearning", Training()
    plan = Training(tasks=names or usual.tasks, episodes=episodes or usual.episodes, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    with only_writer(out, "training"):
        check_record(out / f"{agent}.json", plan)
        found, curve = trained(plan, out / f"{agent}.checkpoint", Bar(f"training {agent}", quiet))
        record = {
            "command": command_line(),
            "training": asdict(plan),
            "seeds": seeds_of(plan),
            "curve": curve,
        }
        files = written(out, agent, found, record)
        (out / f"{agent}.checkpoint").unlink(missing_ok=True)

    def cells(point: dict) -> list[str]:
        return [f"{point['episode']:,}", f"{point['epsilon']:.3f}", f"{point['return']:,.1f}"]

    return Made(record, list(files), ("episode", "exploring", "return"), cells)


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
        keep(progress)  # a training that has just begun is seen, too
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

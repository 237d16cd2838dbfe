"""Training of the networks that serve, as a command: resumable, with progress, one writer to a folder."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kv_cache_rl.cli.options import command_line
from kv_cache_rl.cli.saved import only_writer, stoppable
from kv_cache_rl.cli.terminal import Bar
from kv_cache_rl.extras import need
from kv_cache_rl.files import write_json, write_whole

if TYPE_CHECKING:
    import numpy as np

    from kv_cache_rl.agents.training.course import Progress
    from kv_cache_rl.agents.training.plan import NetworkTraining


@dataclass(frozen=True, slots=True)
class Made:
    """A finished training."""

    record: dict
    """Command, training, seeds, curve."""
    files: list[Path]
    columns: tuple[str, ...]
    """Of the curve's table, before the tasks."""
    cells: Callable[[dict], list[str]]
    """A point of the curve -> what stands in them."""


def course(
    agent: str,
    tasks: tuple[str, ...],
    rounds: int | None,
    learning_rate: float | None,
    seed: int,
    out: Path,
    quiet: bool,
) -> Made:
    """A trained network and its files.

    Raises:
        MissingExtra: a trainer is not installed.
    """
    need(f"training {agent}", "stable_baselines3", "sb3_contrib")
    from kv_cache_rl.agents.checkpoint import check_record
    from kv_cache_rl.agents.networks import SUFFIX, network_bytes
    from kv_cache_rl.agents.training.plan import planned, seeds_of

    plan = planned(agent, seed, tasks, rounds, learning_rate)
    out.mkdir(parents=True, exist_ok=True)
    weights, story, checkpoint = (out / f"{agent}{end}" for end in (SUFFIX, ".json", ".checkpoint"))
    with only_writer(out, "training"):
        check_record(story, plan)
        layers, curve = trained(plan, checkpoint, Bar(f"training {agent}: decisions", quiet))
        about = {"command": command_line(), "training": asdict(plan), "seeds": seeds_of(plan)}
        write_whole(weights, network_bytes(layers, {"agent": agent, **about}))
        write_json(story, {**about, "curve": curve})
        checkpoint.unlink(missing_ok=True)

    def cells(point: dict) -> list[str]:
        return [str(point["round"]), point["kind"], f"{point['loss']:.4f}" if "loss" in point else "-"]

    return Made({**about, "curve": curve}, [weights, story], ("round", "kind", "loss"), cells)


def trained(
    plan: "NetworkTraining", checkpoint: Path, bar: Bar
) -> tuple[dict[str, "np.ndarray"], list[dict]]:
    """The layers and the curve of a training that goes on from its checkpoint, if there is one."""
    from kv_cache_rl.agents.training.course import Progress, loaded, save, train
    from kv_cache_rl.experiments.serving.evaluate import code_digest

    code = code_digest()
    progress = loaded(checkpoint, plan, code) or Progress()
    saved = len(progress.curve)
    if saved:
        typer.echo(f"going on after round {saved} of {plan.rounds}: {checkpoint}", err=True)

    def keep(now: "Progress") -> None:
        nonlocal saved
        save(checkpoint, plan, code, now)
        saved = len(now.curve)

    def go_on() -> str:
        kept = f"{saved} of {plan.rounds} rounds are saved in {checkpoint.parent}"
        return f"{kept}; go on with: {command_line()}"

    with bar, stoppable(checkpoint, go_on):
        keep(progress)  # a training that has just begun is seen, too
        return train(plan, progress, keep, bar, checkpoint.parent / "tensorboard")

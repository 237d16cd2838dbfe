"""``train``: deciders made on fresh scenarios, chosen with `train` and measured on `eval`."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_cache_rl.cli import options
from kv_cache_rl.cli.failures import choose
from kv_cache_rl.cli.options import RUNNING, WORKLOAD, AsJson, command_line, names_of, picture
from kv_cache_rl.cli.saved import only_writer, stoppable
from kv_cache_rl.cli.terminal import Bar, console, print_json
from kv_cache_rl.extras import need
from kv_cache_rl.files import write_json
from kv_cache_rl.reports.tables import plain_table

if TYPE_CHECKING:
    from rich.table import Table

PARTS = {"learn": "learned from", "select": "train", "held_out": "eval"}
"""What a training plays, and what the table calls it."""


def run_train(
    policy: Annotated[
        list[str] | None,
        options.policy("What learns: tuned, learned; by comma or repeated; default: both."),
    ] = None,
    generations: Annotated[
        int | None,
        options.option(RUNNING, "--generations", help="Of the search; default: each decider's own.", min=1),
    ] = None,
    seed: Annotated[int, options.seed("What the search draws.")] = 0,
    fresh: Annotated[
        bool,
        options.option(
            WORKLOAD,
            "--fresh/--committed",
            help="Learn from 3,000 fresh scenarios, or from three quarters of the train set.",
        ),
    ] = True,
    out: Annotated[Path, options.out("Folder for the weights and how they were made.")] = Path(
        "runs/eviction/train"
    ),
    plot: Annotated[Path | None, options.plot("Draw the training curves")] = None,
    as_json: AsJson = False,
) -> None:
    """Train the deciders that ship with weights, in the compiled simulator.

    They learn from 3,000 fresh scenarios; the `train` set helps to choose what is kept, and `eval` measures.

    In the end they are compared with those that ship, on `eval` and on `test`.

    The same command goes on with a training that was interrupted, and ends with the same bytes.

    Example: kv-cache-rl train --policy tuned --out runs/eviction/train
    """
    from kv_cache_rl.experiments.eviction.courses import (
        COURSES,
        LESSONS,
        committed_school,
        follow,
        journal_of,
        usual_school,
    )
    from kv_cache_rl.reports.eviction.tables import interval_words
    from kv_cache_rl.sim.eviction.trained import read_tuned

    names = [choose("decider to train", name, COURSES) for name in names_of(policy)] or list(COURSES)
    for name in names:
        need(f"training {name}", *COURSES[name].needs)
    picture(plot)
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict] = {}
    files: list[Path] = []
    constants = None
    with only_writer(out, "training"):
        with Bar("scenarios to learn from", as_json) as bar, stoppable(out, _go_on(bar, out, "scenarios")):
            school = usual_school(out, bar) if fresh else committed_school()
        for name in sorted(names, key=list(COURSES).index):
            with Bar(f"training {name}", as_json) as bar, stoppable(out, _go_on(bar, out, "generations")):
                made, found[name] = follow(name, school, generations, seed, out, bar, constants)
            write_json(made[1], {"command": command_line(), **found[name]})
            shutil.rmtree(journal_of(out, name))
            if name == "tuned":
                constants = read_tuned(made[0]).weights
            files += made
        shutil.rmtree(out / LESSONS, ignore_errors=True)
    if plot is not None:
        from kv_cache_rl.reports.canvas import save
        from kv_cache_rl.reports.eviction.training import curves

        files.append(save(curves(found), plot))
    if as_json:
        print_json({"command": command_line(), "files": [str(path) for path in files], "deciders": found})
        return
    for name, record in found.items():
        console().print(_table(name, record["curve"]))
        for split, gain in record["beside_shipped"].items():
            typer.echo(
                f"{name} minus the shipped one on {split}: {gain['mean']:+.3f}, {interval_words(gain)}"
            )
    for path in files:
        typer.echo(path)


def _go_on(bar: Bar, out: Path, what: str) -> Callable[[], str]:
    return lambda: f"{bar.done:,} of {bar.total:,} {what} are saved in {out}; go on with: {command_line()}"


def _table(name: str, curve: list[dict]) -> "Table":
    """Mean scores at every look."""
    parts = [part for part in PARTS if part in curve[0]]
    columns = {"generation": "right"} | {PARTS[part]: "right" for part in parts}
    shown = plain_table(f"{name}: mean normalised score", columns, "the best line by all but eval was kept")
    for point in curve:
        means = [f"{sum(point[part].values()) / len(point[part]):+.3f}" for part in parts]
        shown.add_row(f"{point['generation']:,}", *means)
    return shown

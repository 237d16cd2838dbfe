"""``engine compare``: recordings of a real engine beside the hierarchy lab and the serving world."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_cache_rl.cli import options
from kv_cache_rl.cli.exits import FAILED
from kv_cache_rl.cli.failures import choose
from kv_cache_rl.cli.options import RULES, AsJson, Check
from kv_cache_rl.cli.terminal import console, print_json

if TYPE_CHECKING:
    from kv_cache_rl.experiments.engine.folder import Config

BOTH = "both"


def run_compare(
    run: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders of engine record.")],
    order: Annotated[
        str | None,
        options.option(
            RULES,
            "--order",
            help="How the lab replays: in-order (one request after the other), as-scheduled (blocks are "
            "taken and freed as the engine did) or both; default: in-order for one at a time, else both.",
        ),
    ] = None,
    check: Check = False,
    as_json: AsJson = False,
) -> None:
    """Replay recorded requests in the hierarchy lab, and count those that find the same blocks.

    The serving world takes the same steps under vLLM's rules: running, waiting, free blocks, preemptions.

    The last row of a recording and its steps decide --check: every one equal.

    Example: kv-cache-rl engine compare runs/rag
    """
    from kv_cache_rl.experiments.engine.comparison import ORDERS, compare
    from kv_cache_rl.experiments.engine.folder import read_run
    from kv_cache_rl.experiments.engine.stepped import compare_steps

    names = {name.replace(" ", "-"): name for name in ORDERS}
    if order is not None:
        choose("order", order, (*names, BOTH))
    rows, steps, missed = [], [], False
    for folder in run:
        recording = read_run(folder)
        if not recording.complete:
            done, all_of_them = len(recording.requests), recording.config.requests
            typer.echo(f"{folder}: {done:,} of {all_of_them:,} requests are recorded", err=True)
        wanted = _orders(recording.config, order, names)
        rows += [compare(recording, names[one]).to_json() for one in wanted]
        missed |= bool(wanted) and rows[-1]["equal"] < rows[-1]["starts"]
        steps.append(compare_steps(recording).to_json())
        missed |= steps[-1]["equal"] < steps[-1]["steps"] or steps[-1]["first"] is not None
    if as_json:
        print_json({"rows": rows, "steps": steps})
    else:
        show(rows, steps)
    if check and missed:
        raise typer.Exit(FAILED)


def _orders(config: "Config", order: str | None, names: Iterable[str]) -> list[str]:
    """The orders in which the hierarchy lab replays a recording; none without a prefix cache."""
    usual = "in-order" if config.one_at_a_time else BOTH
    chosen = order or (usual if config.prefix_caching else None)
    return list(names) if chosen == BOTH else [] if chosen is None else [chosen]


def show(rows: list[dict], steps: list[dict]) -> None:
    """The tables, and below each what is said of every recording."""
    from kv_cache_rl.reports.engine import said, said_of_steps, steps_table, table

    parts = [(table, said, rows), (steps_table, said_of_steps, steps)]
    for drawn, lines_of, part in parts:
        if part:
            console().print(drawn(part))
        for row in part:
            for line in lines_of(row):
                console().print(line, soft_wrap=True, highlight=False, markup=False)

"""``engine compare``: recordings of a real engine beside the hierarchy lab."""

from pathlib import Path
from typing import Annotated

import typer

from kv_cache_rl.cli import options
from kv_cache_rl.cli.exits import FAILED
from kv_cache_rl.cli.failures import choose
from kv_cache_rl.cli.options import RULES, AsJson, Check
from kv_cache_rl.cli.terminal import console, print_json

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

    The last row of a recording decides --check: every request equal.

    Example: kv-cache-rl engine compare runs/rag
    """
    from kv_cache_rl.experiments.engine.comparison import ORDERS, compare
    from kv_cache_rl.experiments.engine.folder import read_run

    names = {name.replace(" ", "-"): name for name in ORDERS}
    if order is not None:
        choose("order", order, (*names, BOTH))
    rows, missed = [], False
    for folder in run:
        recording = read_run(folder)
        if not recording.complete:
            done, all_of_them = len(recording.requests), recording.config.requests
            typer.echo(f"{folder}: {done:,} of {all_of_them:,} requests are recorded", err=True)
        chosen = order or ("in-order" if recording.config.one_at_a_time else BOTH)
        wanted = list(names) if chosen == BOTH else [chosen]
        rows += [compare(recording, names[one]).to_json() for one in wanted]
        missed |= rows[-1]["equal"] < rows[-1]["starts"]
    if as_json:
        print_json({"rows": rows})
    else:
        show(rows)
    if check and missed:
        raise typer.Exit(FAILED)


def show(rows: list[dict]) -> None:
    """The table, and below it what is said of each recording."""
    from kv_cache_rl.reports.engine import said, table

    console().print(table(rows))
    for row in rows:
        for line in said(row):
            console().print(line, soft_wrap=True, highlight=False, markup=False)

"""``report``: the HTML page of a run folder."""

from pathlib import Path
from typing import Annotated

import typer

from kv_cache_rl.amounts import amount, counted
from kv_cache_rl.cli import options
from kv_cache_rl.cli.eviction import runs
from kv_cache_rl.cli.eviction.findings import findings
from kv_cache_rl.cli.options import AsJson
from kv_cache_rl.cli.terminal import print_json
from kv_cache_rl.files import write_whole


def run_report(
    folder: Annotated[Path, typer.Argument(help="A run folder that eval or baselines --out made.")],
    out: Annotated[
        Path | None, options.out("Where to write the page; default: report.html in the folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the HTML report of a run: one file that opens offline, under 3 MB.

    Example: kv-cache-rl report runs/20261122-194500-learned-lru --out report.html
    """
    config = runs.read_config(folder)
    scenarios = runs.scenarios_of(config)
    outcomes = runs.results_of(folder, config, scenarios)
    path = out or folder / runs.REPORT
    sentences = findings(config, outcomes, scenarios)
    write_whole(path, runs.page_of(config, outcomes, scenarios, sentences).encode())
    if as_json:
        print_json({"report": str(path), "bytes": path.stat().st_size, "rollouts": len(outcomes)})
    else:
        typer.echo(f"report: {path} ({amount(path.stat().st_size)}, {counted(len(outcomes), 'rollout')})")

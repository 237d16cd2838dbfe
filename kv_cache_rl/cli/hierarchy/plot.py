"""``hierarchy plot``: the plots of a finished sweep."""

from pathlib import Path
from typing import Annotated

import typer

from kv_cache_rl.cli import options
from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.cli.options import AsJson
from kv_cache_rl.cli.terminal import print_json, waiting


def run_plot(
    folder: Annotated[Path, typer.Argument(help="The folder of a finished sweep or ablation.")],
    out: Annotated[Path | None, options.out("Where the plots go; default: plots in that folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Draw hit rates, latencies, bytes, prefetches and miss-ratio curves of a sweep, with the bound drawn in.

    Example: kv-cache-rl hierarchy plot runs/hierarchy/sweep --out plots
    """
    from kv_cache_rl.experiments.hierarchy.artifacts import RESULTS

    if folder.is_file():
        raise BadInput(f"{folder} is a file; give the folder that kv-cache-rl hierarchy sweep --out made")
    if not (folder / RESULTS).is_file():
        raise BadInput(
            f"{folder} is no finished sweep (it has no {RESULTS}); make one with kv-cache-rl hierarchy "
            f"sweep --out {folder}"
        )
    from kv_cache_rl.reports.hierarchy import plots

    with waiting("drawing", as_json):
        files = plots(folder, out or folder / "plots")
    if as_json:
        print_json({"folder": str(folder), "files": [str(path) for path in files]})
    else:
        for path in files:
            typer.echo(path)

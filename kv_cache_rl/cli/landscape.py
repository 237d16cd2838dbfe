"""``landscape``: the floor, every decider and the oracle on fresh scenarios, selected and not."""

from pathlib import Path
from typing import Annotated

import typer

from kv_cache_rl.cli.options import AsJson, console, print_json


def run_landscape(
    per_tier: Annotated[int, typer.Option(help="Scenarios per tier.", min=2)] = 30,
    seed: Annotated[int, typer.Option(help="First seed of the scenarios.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Also write the numbers to this JSON file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure whether looking pays: floor, deciders, oracle, acceptance rate, on fresh scenarios.

    Example: kv-cache-rl landscape --per-tier 30 --json
    """
    from kv_cache_rl.cli.runs import write_json
    from kv_cache_rl.search.landscape import run

    found = run(per_tier, seed)
    if out is not None:
        write_json(out, found)
    if as_json:
        print_json(found)
    else:
        console().print_json(data=found)

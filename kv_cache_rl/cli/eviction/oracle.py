"""``oracle``: search an episode with the future in hand."""

from time import perf_counter
from typing import Annotated

import typer

from kv_cache_rl.cli import options
from kv_cache_rl.cli.eviction.options import (
    SELECTING,
    Difficulty,
    NumExamples,
    ScenarioNames,
    Seed,
    Split,
    Trace,
    named_scenarios,
)
from kv_cache_rl.cli.options import OUTPUT, RUNNING, AsJson
from kv_cache_rl.cli.terminal import console, print_json, track
from kv_cache_rl.reports.tables import plain_table


def run_oracle(
    context: typer.Context,
    scenario: ScenarioNames = None,
    difficulty: Difficulty = "all",
    split: Split = "eval",
    num_examples: NumExamples = None,
    seed: Seed = 42,
    trace: Trace = None,
    width: Annotated[
        int | None, options.option(RUNNING, "--width", help="Search width; more is better and slower.", min=1)
    ] = None,
    action_log: Annotated[
        bool, options.option(OUTPUT, "--action-log", help="With --json, also give the action logs.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Search for the best return of scenarios and compare it with the stored one.

    Example: kv-cache-rl oracle --difficulty hard --num-examples 3
    """
    from kv_cache_rl.search.eviction.oracle import DEFAULT_WIDTH, solve

    chosen = difficulty, split, num_examples, seed, trace
    scenarios = named_scenarios(context, scenario, *chosen, selecting=(*SELECTING, "seed"))
    found = []
    for item in track(scenarios, "oracle", as_json):
        started = perf_counter()
        actions, best = solve(item, DEFAULT_WIDTH if width is None else width)
        seconds = round(perf_counter() - started, 3)
        row = {
            "scenario_id": item.id,
            "floor": item.floor if item.referenced else None,
            "stored": item.best if item.referenced else None,
            "found": best,
            "seconds": seconds,
        }
        found.append({**row, "log": actions} if action_log else row)
    if as_json:
        print_json({"scenarios": found})
        return
    numbers = dict.fromkeys(("floor", "stored", "found", "seconds"), "right")
    table = plain_table("best known returns", {"scenario": "left"} | numbers)
    for row in found:
        table.add_row(
            str(row["scenario_id"]),
            *("-" if row[key] is None else f"{row[key]:+.4f}" for key in ("floor", "stored", "found")),
            f"{row['seconds']:.2f}",
        )
    console().print(table)

"""``planner``: how much of the gap to the oracle can be had without its foreknowledge."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from kv_cache_rl.amounts import counted
from kv_cache_rl.cli import options
from kv_cache_rl.cli.eviction.options import (
    Difficulty,
    NumExamples,
    Seed,
    Split,
    Trace,
    find_scenario,
    how_many,
    select_scenarios,
)
from kv_cache_rl.cli.options import RUNNING, AsJson, Workers
from kv_cache_rl.cli.terminal import Bar, console, print_json

if TYPE_CHECKING:
    from kv_cache_rl.reports.eviction.outcome import Outcome
    from kv_cache_rl.sim.eviction import Scenario


def played(
    scenarios: Sequence["Scenario"], seed: int, futures: int, workers: int | None, quiet: bool
) -> list["Outcome"]:
    """The episodes of the decider that the planner improves on, then the planner's."""
    from kv_cache_rl.cli.eviction.baselines import play
    from kv_cache_rl.experiments.workers import cores, mapped
    from kv_cache_rl.reports.eviction.outcome import from_report
    from kv_cache_rl.search.eviction.planner import BASE, plan
    from kv_cache_rl.sim.eviction import replay

    outcomes = [play(scenario, BASE) for scenario in scenarios]
    with Bar("planner", quiet) as bar:
        logs = mapped(
            partial(plan, seed=seed, futures=futures),
            scenarios,
            workers or cores(),
            lambda done: bar(done, len(scenarios)),
        )
    for scenario, (log, _) in zip(scenarios, logs, strict=True):
        outcomes.append(from_report(scenario, "planner", replay(scenario, log), log))
    return outcomes


def run_planner(
    scenario: Annotated[
        list[str] | None, typer.Argument(help="Scenario ids or files; default: those the options select.")
    ] = None,
    difficulty: Difficulty = "all",
    split: Split = "eval",
    num_examples: NumExamples = None,
    seed: Seed = 42,
    trace: Trace = None,
    futures: Annotated[
        int | None,
        options.option(
            RUNNING,
            "--futures",
            help="Futures drawn in each window; more is better and slower.",
            min=2,
            max=10_000,
        ),
    ] = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Plan episodes from the view alone, in futures drawn anew in each window; learned and the oracle beside.

    It takes some seconds a window. The seed also draws the futures.

    Example: kv-cache-rl planner --difficulty hard --num-examples 3
    """  # fmt: skip
    from kv_cache_rl.reports.eviction import tables
    from kv_cache_rl.search.eviction.planner import DEFAULT_FUTURES

    if scenario:
        scenarios = list(dict.fromkeys(find_scenario(name) for name in scenario))
    else:
        scenarios = list(select_scenarios(difficulty, split, how_many(num_examples, difficulty), seed, trace))
    drawn = DEFAULT_FUTURES if futures is None else futures
    outcomes = played(scenarios, seed, drawn, workers, as_json)
    rows = tables.results_rows(outcomes, {item.id: item for item in scenarios})
    if as_json:
        print_json(
            {
                "futures": drawn,
                "seed": seed,
                "rows": [row.to_json() for row in rows],
                "differences": tables.differences(outcomes),
            }
        )
        return
    title = f"{counted(len(scenarios), 'scenario')}, {counted(drawn, 'future')} a window"
    console().print(tables.rich_table(rows, title))

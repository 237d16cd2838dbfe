"""``planner``: how much of the gap to the oracle can be had without its foreknowledge."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_cache_rl.amounts import counted
from kv_cache_rl.cli import options
from kv_cache_rl.cli.eviction.options import (
    Difficulty,
    NumExamples,
    ScenarioNames,
    Seed,
    Split,
    Trace,
    named_scenarios,
)
from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.cli.options import RUNNING, AsJson, Workers, command_line
from kv_cache_rl.cli.saved import stoppable
from kv_cache_rl.cli.terminal import Bar, console, print_json

if TYPE_CHECKING:
    from kv_cache_rl.reports.eviction.outcome import Outcome
    from kv_cache_rl.sim.eviction import Scenario

BESIDE = ("tuned", "learned")


def _played(
    jobs: Sequence[tuple["Scenario", str]], seed: int, futures: int, workers: int, out: Path, quiet: bool
) -> list[dict]:
    """A row for each job, a scenario and a kind; what the folder holds already is not played again."""
    from kv_cache_rl import ENVIRONMENT_VERSION
    from kv_cache_rl.experiments.eviction.foresight import key_of, planned
    from kv_cache_rl.experiments.journal import Journal
    from kv_cache_rl.experiments.workers import spread

    names = [key_of(job) for job in jobs]
    with Journal(out) as journal:
        plan = {"environment_version": ENVIRONMENT_VERSION, "seed": seed, "futures": futures}
        journal.check_plan(plan, "episodes")
        left = [k for k, name in enumerate(names) if name not in journal.rows]
        with Bar("planner", quiet) as bar:

            def keep(index: int, row: dict) -> None:
                journal.add(names[left[index]], row)
                bar(sum(name in journal.rows for name in names), len(names))

            def go_on() -> str:
                done = sum(name in journal.rows for name in names)
                return f"{done:,} of {len(names):,} episodes are saved in {out}; go on with: {command_line()}"

            with stoppable(out, go_on):
                spread(partial(planned, seed=seed, futures=futures), [jobs[k] for k in left], keep, workers)
        return [journal.rows[name] for name in names]


def _refuse_one_id(scenarios: Sequence["Scenario"]) -> None:
    """Raises BadInput for two different scenarios of one id, which no table could tell apart."""
    for name, count in Counter(one.id for one in scenarios).items():
        if count > 1:
            raise BadInput(f"{count} different scenarios have the id {name}; plan each in a call of its own")


def _outcomes(scenarios: Sequence["Scenario"], rows: list[dict]) -> list["Outcome"]:
    from kv_cache_rl.cli.eviction.baselines import play
    from kv_cache_rl.reports.eviction.outcome import from_report
    from kv_cache_rl.sim.eviction import replay

    logs = {row["scenario"]: row["log"] for row in rows if row["kind"] == "view"}
    planner = [
        from_report(scenario, "planner", replay(scenario, logs[scenario.id]), logs[scenario.id])
        for scenario in scenarios
    ]
    return planner + [play(scenario, name) for name in BESIDE for scenario in scenarios]


def run_planner(
    context: typer.Context,
    scenario: ScenarioNames = None,
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
            help="Futures with which a choice ends; more is better and slower.",
            min=2,
            max=10_000,
        ),
    ] = None,
    checks: Annotated[
        int,
        options.option(
            RUNNING,
            "--checks",
            help="Also search the true future, and play so many episodes of the planner's own model.",
            min=0,
        ),
    ] = 0,
    workers: Workers = None,
    out: Annotated[Path, options.out("Folder that keeps what has been played.")] = Path(
        "runs/eviction/planner"
    ),
    as_json: AsJson = False,
) -> None:
    """Plan episodes from the view alone, in futures drawn anew in each window, beside tuned and learned.

    It takes about a second a window. The seed also draws the futures. The same command resumes.

    Example: kv-cache-rl planner --difficulty hard --num-examples 3
    """
    from kv_cache_rl.experiments.eviction.foresight import KINDS
    from kv_cache_rl.experiments.workers import cores
    from kv_cache_rl.reports.eviction import tables
    from kv_cache_rl.reports.eviction.foresight import gains, sentence
    from kv_cache_rl.search.eviction.planner import DEFAULT_FUTURES

    chosen = difficulty, split, num_examples, seed, trace
    scenarios = list(dict.fromkeys(named_scenarios(context, scenario, *chosen)))
    _refuse_one_id(scenarios)
    if bare := next((one.id for one in scenarios if not one.best_log), None):
        raise BadInput(
            f"{bare} stores no best-known log to hold the planner against; choose a scenario that "
            "kv-cache-rl scenarios generate has made"
        )
    drawn = DEFAULT_FUTURES if futures is None else futures
    checked = _some_of_each_tier(scenarios, checks)
    kinds = KINDS if checks else KINDS[:1]
    jobs = [(one, kind) for kind in kinds for one in (checked if kind == "model" else scenarios)]
    rows = _played(jobs, seed, drawn, workers or cores(), out, as_json)
    outcomes = _outcomes(scenarios, rows)
    means = tables.results_rows(outcomes, {one.id: one for one in scenarios})
    compared = gains(rows, {name: _scores(outcomes, name) for name in BESIDE})
    if as_json:
        print_json(
            {
                "command": command_line(),
                "futures": drawn,
                "seed": seed,
                "rows": [row.to_json() for row in means],
                "differences": tables.differences(outcomes),
                "gains": compared,
            }
        )
        return
    title = f"{counted(len(scenarios), 'scenario')}, {counted(drawn, 'future')} to judge a choice"
    console().print(tables.rich_table(means, title))
    for gain in compared:
        typer.echo(sentence(gain))


def _some_of_each_tier(scenarios: Sequence["Scenario"], count: int) -> list["Scenario"]:
    """At most so many scenarios, in even steps from every tier."""
    step = -(-len(scenarios) // count) if count else len(scenarios) + 1
    tiers = dict.fromkeys(one.difficulty for one in scenarios)
    of_tiers = ([one for one in scenarios if one.difficulty == tier] for tier in tiers)
    return [one for of_tier in of_tiers for one in of_tier[::step]][:count]


def _scores(outcomes: Sequence["Outcome"], name: str) -> dict[str, float]:
    return {
        one.scenario_id: one.normalized
        for one in outcomes
        if one.model == name and one.normalized is not None
    }

"""``baselines``: policies straight on the simulator, without a chat model in between."""

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from kv_cache_rl.amounts import counted
from kv_cache_rl.cli import options
from kv_cache_rl.cli.eviction.options import (
    Difficulty,
    NumExamples,
    Policies,
    Seed,
    Split,
    Trace,
    choose_policies,
    how_many,
    select_scenarios,
)
from kv_cache_rl.cli.options import AsJson, Markdown
from kv_cache_rl.cli.terminal import console, print_json, track

if TYPE_CHECKING:
    from kv_cache_rl.reports.eviction.outcome import Outcome
    from kv_cache_rl.sim.eviction import Scenario


def play(scenario: "Scenario", policy: str, view: str = "full") -> "Outcome":
    """One episode of a policy that sees this view, as a finished rollout."""
    from kv_cache_rl.reports.eviction.outcome import from_report
    from kv_cache_rl.sim.eviction import DECIDERS, Episode
    from kv_cache_rl.sim.eviction import play as play_episode

    started = perf_counter()
    episode = play_episode(Episode(scenario, view), DECIDERS[policy]())
    return from_report(scenario, policy, episode.report(), episode.log, perf_counter() - started)


def play_expert(scenario: "Scenario", name: str, view: str) -> "Outcome":
    """One episode of a policy, or of the best-known log."""
    from kv_cache_rl.reports.eviction.tables import oracle_outcomes
    from kv_cache_rl.sim.eviction import ORACLE

    return oracle_outcomes([scenario])[0] if name == ORACLE else play(scenario, name, view)


def play_all(scenarios: Sequence["Scenario"], policies: Sequence[str], quiet: bool) -> list["Outcome"]:
    """Every policy on every scenario, policy by policy."""
    pairs = [(scenario, policy) for policy in policies for scenario in scenarios]
    return [play(scenario, policy) for scenario, policy in track(pairs, "baselines", quiet)]


def run_baselines(
    policy: Policies = None,
    difficulty: Difficulty = "all",
    split: Split = "eval",
    num_examples: NumExamples = None,
    seed: Seed = 42,
    trace: Trace = None,
    markdown: Markdown = False,
    out: Annotated[
        Path | None, options.out("Also write a run folder with results and HTML report here.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Play policies straight on the simulator, all of them by default: the same table as eval, in seconds.

    Example: kv-cache-rl baselines --policy lru --policy learned --difficulty hard --num-examples 50
    """
    from kv_cache_rl.cli.eviction import runs
    from kv_cache_rl.reports.eviction import tables
    from kv_cache_rl.sim.eviction import DECIDERS

    policies = choose_policies(policy, list(DECIDERS))
    total = how_many(num_examples, difficulty)
    scenarios = select_scenarios(difficulty, split, total, seed, trace)
    config = runs.new_config(
        "baselines", [{"model": name} for name in policies], difficulty, split, total, seed, trace
    )
    if out is not None:
        runs.refuse_other_run(out, config)
    outcomes = play_all(scenarios, policies, quiet=as_json)
    by_id = {scenario.id: scenario for scenario in scenarios}
    summary = runs.summarize(config, outcomes, by_id)
    if out is not None:
        runs.write_run(out, config, outcomes, by_id, summary)
    if as_json:
        print_json(summary)
        return
    rows = tables.results_rows(outcomes, by_id)
    if markdown:
        typer.echo(tables.markdown(rows), nl=False)
    else:
        console().print(
            tables.rich_table(
                rows,
                f"{counted(len(scenarios), 'scenario')}, environment version {config['environment_version']}",
            )
        )
    if out is not None:
        console(stderr=True).print(f"report: {out / runs.REPORT}")

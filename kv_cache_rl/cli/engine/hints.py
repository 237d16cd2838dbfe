"""``engine hints``: decisions of the eviction environment as hints that an engine takes."""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from kv_cache_rl.amounts import counted
from kv_cache_rl.cli import options
from kv_cache_rl.cli.eviction import runs
from kv_cache_rl.cli.failures import BadInput, choose
from kv_cache_rl.cli.options import WORKLOAD, AsJson
from kv_cache_rl.cli.terminal import console, print_json
from kv_cache_rl.reports.tables import plain_table


def run_hints(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="A run folder of eval, or of baselines --out; with --trace there, of a trace."
        ),
    ],
    policy: Annotated[
        str | None, options.policy("The model or policy whose decisions count; default: all of the run.")
    ] = None,
    scenario: Annotated[
        str | None, options.option(WORKLOAD, "--scenario", help="Only this scenario's id; default: all.")
    ] = None,
    soon: Annotated[
        int,
        options.option(
            WORKLOAD,
            "--soon",
            help="Windows within which a turn comes soon: what is kept for it is retained.",
            min=1,
            max=10**6,
        ),
    ] = 3,
    out: Annotated[Path | None, options.out("Write the envelopes, one JSON object a line.")] = None,
    as_json: AsJson = False,
) -> None:
    """Turn action logs into vLLM's KvHintsEnvelope: release, demote, retain.

    Example: kv-cache-rl engine hints runs/lru --policy lru --out hints.jsonl
    """
    from kv_cache_rl.adapters.kv_hints import DEMOTE, RELEASE, RETAIN, hints_of
    from kv_cache_rl.files import write_whole

    options.writable(out, "--out")
    scenarios, outcomes = rollouts(run, policy, scenario)
    envelopes, actions, untold = list[dict[str, Any]](), Counter[str](), Counter[str]()
    for outcome in outcomes:
        hints = hints_of(scenarios[outcome.scenario_id], outcome.log, outcome.model, soon)
        envelopes += hints.envelopes
        actions += hints.actions
        untold += hints.untold
    found: dict[str, Any] = {"run": str(run), "rollouts": len(outcomes), "envelopes": len(envelopes)}
    found |= {"actions": {kind: actions[kind] for kind in (RELEASE, DEMOTE, RETAIN)}, "untold": dict(untold)}
    if out is not None:
        write_whole(out, "".join(json.dumps(one) + "\n" for one in envelopes).encode())
        found["out"] = str(out)
    if as_json:
        print_json(found if out is not None else found | {"messages": envelopes})
        return
    show(found)


def rollouts(run: Path, policy: str | None, scenario: str | None) -> tuple[dict, list]:
    """The scenarios of a run, and those of its rollouts that count and ended well.

    Raises BadInput where there is none.
    """
    config = runs.read_config(run)
    scenarios = runs.scenarios_of(config)
    every = runs.results_of(run, config, scenarios)
    if policy is not None:
        choose("policy", policy, dict.fromkeys(outcome.model for outcome in every))
    if scenario is not None:
        choose("scenario", scenario, scenarios)
    found = [
        one
        for one in every
        if one.error is None and policy in (None, one.model) and scenario in (None, one.scenario_id)
    ]
    if not found:
        raise BadInput(
            f"no rollout of {run} that these options name ended well; leave them out, or run it again"
        )
    return scenarios, found


def show(found: dict[str, Any]) -> None:
    """Prints the counts."""
    title = (
        f"{found['run']}: {counted(found['rollouts'], 'episode')}, {counted(found['envelopes'], 'envelope')}"
    )
    table = plain_table(title, {"hint": "left", "actions": "right"})
    for kind, count in found["actions"].items():
        table.add_row(kind, f"{count:,}")
    for what, count in found["untold"].items():
        table.add_row(f"none ({what})", f"{count:,}")
    console().print(table)
    if "out" in found:
        typer.echo(found["out"])

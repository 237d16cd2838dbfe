"""``replay``: an episode in the terminal, window by window."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_cache_rl.cli import options
from kv_cache_rl.cli.eviction import runs
from kv_cache_rl.cli.eviction.options import NO_REFERENCES, find_scenario
from kv_cache_rl.cli.failures import BadInput, choose
from kv_cache_rl.cli.options import OUTPUT, WORKLOAD, AsJson
from kv_cache_rl.cli.terminal import console, print_json, styled
from kv_cache_rl.sim.eviction import ORACLE

if TYPE_CHECKING:
    from rich.text import Text

    from kv_cache_rl.sim.eviction import Report, Scenario

BAR = 40


def played_by(name: str, policy: str) -> tuple["Scenario", "Report"]:
    """A scenario played now by a policy, or by the oracle's stored log."""
    from kv_cache_rl.sim.eviction import DECIDERS, replay, rollout

    scenario = find_scenario(name)
    if policy == ORACLE:
        if not scenario.best_log:
            raise BadInput(
                f"{scenario.id} stores no best-known log; choose another --policy, or a scenario that "
                "kv-cache-rl scenarios generate has made"
            )
        return scenario, replay(scenario, scenario.best_log)
    choose("policy", policy, [*DECIDERS, ORACLE])
    return scenario, rollout(scenario, DECIDERS[policy]())


def recorded_in(folder: Path, name: str, policy: str | None) -> tuple["Scenario", "Report", str]:
    """A scenario as a run folder recorded it, with the model that played it.

    Raises BadInput where it did not.
    """
    from kv_cache_rl.reports.eviction.outcome import played_again

    config = runs.read_config(folder)
    scenarios = runs.scenarios_of(config)
    outcomes = [one for one in runs.results_of(folder, config, scenarios) if one.scenario_id == name]
    if not outcomes:
        raise BadInput(
            f"{folder} has no rollout of {name}; choose one of the scenario_id in {folder / runs.RESULTS}"
        )
    model = choose("model", policy, [outcome.model for outcome in outcomes]) if policy else outcomes[0].model
    outcome = next(outcome for outcome in outcomes if outcome.model == model)
    if outcome.error is not None:
        raise BadInput(
            f"the rollout of {name} by {model} failed ({outcome.error}); there is nothing whole to replay"
        )
    return scenarios[name], played_again(outcome, scenarios[name]), model


def bar(usage: float) -> "Text":
    """Memory as a bar over the budget; what is above it is red."""
    filled = round(min(usage, 1.0) * BAR)
    over = min(round(max(usage - 1.0, 0.0) * BAR), BAR // 2)
    color = "green" if usage < 0.8 else "yellow" if usage < 0.95 else "magenta"
    return styled(("█" * filled, color), ("░" * (BAR - filled), "dim"), "|", ("█" * over, "red"))


def window_lines(window: Mapping) -> list["Text"]:
    """One window in words."""
    rest = f" peak {window['usage_peak']:6.1%} of budget   "
    rest += f"queue {window['queue']:>2}   {window['tokens']:>6,.0f} tokens   "
    rest += f"link {window['link_busy']:4.0%}   prefill {window['prefill_busy']:4.0%}"
    lines = [styled((f"window {window['step'] + 1:>2}", "bold"), "  ", bar(window["usage_peak"]), rest)]
    for call in window["calls"]:
        mark = ("✓", "green") if call["ok"] else ("✗", "red")
        what = f"{call['verb']} {call['seq_id']}".strip()[:60]
        lines.append(styled("   ", mark, f" {what:<24} ", (call["text"][:160], "dim")))
    for key, mark in (("arrivals", "+ arrived"), ("completions", "= completed")):
        if window[key]:
            lines.append(styled("   ", (mark, "cyan"), f" {' '.join(window[key])}"))
    failed = ("! failed", "bold red")
    lines += [styled("   ", failed, f" {f['seq_id']}: {f['why']}") for f in window["failures"]]
    return lines


def run_replay(
    scenario: Annotated[str, typer.Argument(help="A scenario's id, or FILE.jsonl:ID, or FILE.jsonl of one.")],
    policy: Annotated[
        str | None,
        options.policy("What decides: a policy, or oracle for the best known; default learned."),
    ] = None,
    run: Annotated[
        Path | None,
        options.option(
            WORKLOAD, "--run", help="Replay what this run folder recorded, instead of playing it now."
        ),
    ] = None,
    delay: Annotated[
        float, options.option(OUTPUT, "--delay", help="Seconds to wait after each window.", min=0, max=60)
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Watch an episode window by window.

    Memory, calls and their results, arrivals, completions, failures.

    Example: kv-cache-rl replay eviction-eval-hard-0007-v2 --policy lru
    """
    if run is not None:
        found, report, player = recorded_in(run, scenario, policy)
    else:
        player = policy or "learned"
        found, report = played_by(scenario, player)
    if as_json:
        print_json(report_json(found, report, player))
        return
    out = console()
    length = f": {found.steps} windows of {found.step_ms / 1000:g} s"
    out.print(styled((found.id, "bold"), " by ", (player, "bold"), length), soft_wrap=True)
    for window in report.timeline:
        for line in window_lines(window):
            out.print(line, soft_wrap=True)
        time.sleep(delay)
    known = f"floor {found.floor:+.4f}, oracle {found.best:+.4f}" if found.referenced else NO_REFERENCES
    between = f" ({known})   "
    out.print(styled("\nreward ", (f"{report.total:+.4f}", "bold"), between), end="")
    on_scale = f"normalised {report.normalized:+.3f}   " if found.referenced else ""
    out.print(f"{on_scale}failures {report.metrics['total_failures_metric']:.0f}")
    out.print("  ".join(f"{name} {value:+.4f}" for name, value in report.rewards.items()), soft_wrap=True)
    out.print(report.notes, soft_wrap=True)


def report_json(scenario: "Scenario", report: "Report", player: str) -> dict:
    return {
        "scenario_id": scenario.id,
        "policy": player,
        "reward": report.total,
        "normalized": report.normalized,
        "floor": scenario.floor if scenario.referenced else None,
        "best": scenario.best if scenario.referenced else None,
        "rewards": report.rewards,
        "metrics": report.metrics,
        "timeline": report.timeline,
        "notes": report.notes,
    }

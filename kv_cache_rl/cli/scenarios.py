"""``scenarios``: make, check, cut and look at scenario files."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_cache_rl.cli.failures import FAILED, BadInput, choose
from kv_cache_rl.cli.options import (
    AsJson,
    Difficulty,
    NumExamples,
    Seed,
    console,
    find_scenario,
    how_many,
    print_json,
    select_scenarios,
    track,
)

if TYPE_CHECKING:
    from kv_cache_rl.sim.eviction import Scenario

app = typer.Typer(no_args_is_help=True, help="Make, check, cut and look at scenario files.")

Out = Annotated[Path, typer.Option(help="The .jsonl file to write, one scenario per line.")]


def write_scenarios(path: Path, scenarios: "list[Scenario] | tuple[Scenario, ...]") -> dict:
    """Writes one scenario per line and says what stands in the file."""
    from kv_cache_rl.sim.eviction.scenarios import write_file

    write_file(path, scenarios)
    tiers = Counter(scenario.difficulty for scenario in scenarios)
    return {"file": str(path), "scenarios": len(scenarios), "tiers": dict(tiers), "bytes": path.stat().st_size}


def tell_written(facts: dict, as_json: bool) -> None:
    if as_json:
        print_json(facts)
    else:
        tiers = ", ".join(f"{count} {tier}" for tier, count in facts["tiers"].items())
        typer.echo(f"{facts['scenarios']} scenarios ({tiers}) in {facts['file']} ({facts['bytes']:,} bytes)")


@app.command("from-trace")
def from_trace(
    trace: Annotated[Path, typer.Argument(help="A trace file: Claude Code sessions or Mooncake, also .gz.")],
    out: Out,
    difficulty: Difficulty = "all",
    num_examples: NumExamples = None,
    seed: Seed = 42,
    as_json: AsJson = False,
) -> None:
    """Cut playable scenarios from a real trace, with floor and best known.

    Example: kv-cache-rl scenarios from-trace cc_sessions_rle.jsonl.gz --out windows.jsonl --num-examples 15
    """
    total = how_many(num_examples, difficulty)
    tell_written(write_scenarios(out, select_scenarios(difficulty, "eval", total, seed, trace)), as_json)


def faults_of(scenario: "Scenario") -> list[str]:
    """What is wrong with a scenario's stored returns, found by playing it again; empty where all is well."""
    from kv_cache_rl.sim.eviction import DECIDERS, replay, rollout

    faults = []
    best = replay(scenario, scenario.best_log).total
    if best != scenario.best:
        faults.append(f"best is stored as {scenario.best}, its log earns {best}")
    if scenario.floor_by not in DECIDERS:
        faults.append(f"floor_by names {scenario.floor_by!r}, which is no policy")
    else:
        floor = rollout(scenario, DECIDERS[scenario.floor_by]()).total
        if floor != scenario.floor:
            faults.append(f"floor is stored as {scenario.floor}, {scenario.floor_by} earns {floor}")
    if scenario.best < scenario.floor:
        faults.append(f"best {scenario.best} lies below the floor {scenario.floor}")
    return faults


@app.command("verify")
def verify(
    files: Annotated[list[Path] | None, typer.Argument(help="Scenario files; default: the committed sets.")] = None,
    as_json: AsJson = False,
) -> None:
    """Play every stored action log again and compare the returns; exit code 1 where one differs.

    Example: kv-cache-rl scenarios verify scenarios/eval/hard.jsonl
    """
    from kv_cache_rl.sim.eviction import SPLITS, load_file, load_scenarios

    if files:
        scenarios = [scenario for path in files for scenario in load_file(path)]
    else:
        scenarios = [scenario for split in SPLITS for scenario in load_scenarios(split=split)]
    if not scenarios:
        raise BadInput("the files hold no scenario; make some with kv-cache-rl scenarios generate")
    repeated = [name for name, count in Counter(scenario.id for scenario in scenarios).items() if count > 1]
    found = [{"scenario_id": name, "fault": "the id stands more than once"} for name in repeated]
    for scenario in track(scenarios, "verify", as_json):
        found += [{"scenario_id": scenario.id, "fault": fault} for fault in faults_of(scenario)]
    if as_json:
        print_json({"scenarios": len(scenarios), "faults": found})
    else:
        for entry in found[:50]:
            typer.echo(f"{entry['scenario_id']}: {entry['fault']}")
        typer.echo(f"{len(scenarios)} scenarios, {len(found)} faults")
    if found:
        raise typer.Exit(FAILED)


@app.command("show")
def show(
    scenario: Annotated[str, typer.Argument(help="A scenario's id, or FILE.jsonl, or FILE.jsonl:ID.")],
    observation: Annotated[
        bool, typer.Option("--observation", help="Print the first observation as the model reads it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a scenario is made of, or what a model sees of it.

    Example: kv-cache-rl scenarios show eviction-eval-hard-0007-v1
    """
    from kv_cache_rl.sim.eviction import Episode

    found = find_scenario(scenario)
    if observation:
        text = Episode(found).prompt()
        typer.echo(text)
    elif as_json:
        print_json(found.to_json())
    else:
        print_scenario(found)


def print_scenario(scenario: "Scenario") -> None:
    """The scenario's facts, and its sessions as a table."""
    from rich.table import Table

    out = console()
    share = scenario.budget_pages / scenario.gpu_pages
    out.print(f"[bold]{scenario.id}[/]  {scenario.difficulty}, {scenario.source}, seed {scenario.seed}")
    out.print(f"{scenario.model} on {scenario.hardware}, {scenario.steps} windows of {scenario.step_ms / 1000:g} s")
    out.print(f"budget {scenario.budget_pages:,} of {scenario.gpu_pages:,} pages ({share:.0%})")
    out.print(f"CPU pool {scenario.cpu_pages:,} pages")
    out.print(f"floor {scenario.floor:+.4f} by {scenario.floor_by or '-'}, best known {scenario.best:+.4f}")
    table = Table(title=f"{len(scenario.sessions)} sessions", title_justify="left")
    for heading in ("seq_id", "kind", "class", "priority", "place", "tokens", "turns (arrive: new + out)"):
        table.add_column(heading, justify="right" if heading in ("priority", "tokens") else "left")
    for session in scenario.sessions:
        turns = "  ".join(f"{turn.arrive}: {turn.new:,}+{turn.out:,}" for turn in session.turns[:5])
        more = f"  … {len(session.turns) - 5} more" if len(session.turns) > 5 else ""
        numbers = (f"{session.priority / 1000:.2f}", session.place, f"{session.tokens:,}", turns + more)
        table.add_row(session.seq_id, session.kind, session.work_class, *numbers)
    out.print(table)


MIN_GAIN = 0.05
"""By how much the best known must beat the best blind decider for a scenario to be kept."""


def completed(scenario: "Scenario") -> "Scenario":
    """The scenario with its floor and best known filled in."""
    from dataclasses import replace

    from kv_cache_rl.search.oracle import solve
    from kv_cache_rl.search.rollout import policy_return
    from kv_cache_rl.sim.eviction import FLOOR

    returns = {name: policy_return(scenario, name) for name in FLOOR}
    floor_by = max(returns, key=lambda name: returns[name])
    log, best = solve(scenario)
    best_log = tuple(tuple(tuple(call) for call in step) for step in log)
    return replace(scenario, floor=returns[floor_by], floor_by=floor_by, best=best, best_log=best_log)


def kept(difficulty: str, count: int, seed: int) -> "tuple[list[Scenario], int]":
    """The first `count` generated scenarios of a tier in which looking pays, and how many were tried."""
    from kv_cache_rl.sim.eviction.generate import generate

    found: list[Scenario] = []
    tried = 0
    while len(found) < count:
        if tried >= 50 * count + 50:
            raise BadInput(f"only {len(found)} of {tried} {difficulty} scenarios are worth keeping; ask for fewer")
        scenario = completed(generate(difficulty, seed, "train", tried))
        tried += 1
        if scenario.best - scenario.floor >= MIN_GAIN:
            found.append(scenario)
    return found, tried


@app.command("generate")
def generate_file(
    out: Out,
    difficulty: Difficulty = "all",
    num_examples: NumExamples = None,
    seed: Seed = 42,
    as_json: AsJson = False,
) -> None:
    """Generate new scenarios with floor and best known, kept where looking pays; the same file for the same arguments.

    Example: kv-cache-rl scenarios generate --out more.jsonl --difficulty hard --num-examples 100 --seed 7
    """
    from kv_cache_rl.sim.eviction import TIERS

    choose("difficulty", difficulty, [*TIERS, "all"])
    total = how_many(num_examples, difficulty)
    if total < 0:
        raise BadInput("--num-examples is -1, but there is no end to what can be generated; give a number")
    tiers = list(TIERS) if difficulty == "all" else [difficulty]
    shares = {tier: total // len(tiers) + (rank < total % len(tiers)) for rank, tier in enumerate(tiers)}
    scenarios, tried = [], 0
    for tier in track([tier for tier in tiers if shares[tier]], "generate", as_json):
        more, tries = kept(tier, shares[tier], seed)
        scenarios, tried = scenarios + more, tried + tries
    facts = write_scenarios(out, scenarios)
    tell_written({**facts, "tried": tried, "acceptance": round(total / tried, 4)}, as_json)

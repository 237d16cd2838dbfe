"""``scenarios``: make, check, cut and look at scenario files."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_cache_rl.amounts import amount, counted
from kv_cache_rl.cli import options
from kv_cache_rl.cli.eviction.options import (
    NO_REFERENCES,
    Difficulty,
    NumExamples,
    Seed,
    View,
    choose_view,
    find_scenario,
    how_many,
)
from kv_cache_rl.cli.exits import FAILED
from kv_cache_rl.cli.failures import BadInput, choose
from kv_cache_rl.cli.options import OUTPUT, WORKLOAD, AsJson
from kv_cache_rl.cli.terminal import console, print_json, styled, track
from kv_cache_rl.cli.tree import group
from kv_cache_rl.core.errors import unknown
from kv_cache_rl.reports.tables import plain_table

if TYPE_CHECKING:
    from kv_cache_rl.sim.eviction import Scenario

Out = Annotated[Path, options.out("The .jsonl file to write, one scenario per line.")]

TARGETS = {
    "return_gap": (2.0, 8.0),
    "swap_in": (0.05, 0.35),
    "cold_prefill": (0.5, 4.0),
    "return_share": (0.4, 1.0),
}
"""What the generator aims at: times in windows, and the share of live sessions that return within the
episode.
"""


def write_scenarios(path: Path, scenarios: "list[Scenario] | tuple[Scenario, ...]") -> dict:
    """Writes one scenario per line and says what stands in the file."""
    from kv_cache_rl.sim.eviction.scenarios import write_file

    write_file(path, scenarios)
    tiers = Counter(scenario.difficulty for scenario in scenarios)
    physics = where_it_stands(scenarios)
    return {
        "file": str(path),
        "scenarios": len(scenarios),
        "tiers": dict(tiers),
        "bytes": path.stat().st_size,
        "physics": physics,
        "off_target": [
            name for name, (low, high) in TARGETS.items() if not low <= physics.get(name, low) <= high
        ],
    }


def where_it_stands(scenarios: "list[Scenario] | tuple[Scenario, ...]") -> dict[str, float]:
    """Means over the scenarios of their `physics`."""
    from kv_cache_rl.experiments.eviction.landscape import physics

    rows = [physics(scenario) for scenario in scenarios]
    columns = {name: [row[name] for row in rows if row[name] == row[name]] for name in rows[0]}
    return {name: round(sum(values) / len(values), 3) for name, values in columns.items() if values}


def tell_written(facts: dict, as_json: bool) -> None:
    if as_json:
        print_json(facts)
    else:
        tiers = ", ".join(f"{count} {tier}" for tier, count in facts["tiers"].items())
        made, size = counted(facts["scenarios"], "scenario"), amount(facts["bytes"])
        typer.echo(f"{made} ({tiers}) in {facts['file']} ({size})")
        missed = facts["off_target"]
        typer.echo("where they stand, times in windows:")
        for name, value in facts["physics"].items():
            if name in TARGETS:
                low, high = TARGETS[name]
                mark = ", MISSED" if name in missed else ""
                typer.echo(f"  {name.replace('_', ' ')} {value:g} (target {low:g} to {high:g}{mark})")
        if missed and "windows" in facts:
            typer.echo(
                "  another problem than the generated scenarios: scores on these do not compare with "
                "scores on those"
            )
        elif missed:
            typer.echo("  the targets are for the mean of a whole set; that of a few scenarios strays")
        if facts.get("left_out"):
            gaps = facts["left_out"]
            typer.echo(
                f"  {len(gaps)} of {facts['windows']} windows were left out: at every pressure tried the "
                f"best log known is at most {max(gaps):.3f} above the floor"
            )
        if "acceptance" in facts:
            typer.echo(f"  kept {facts['acceptance']:.0%} of {facts['tried']} tried (20 % or more)")


def cut_from_trace(
    trace: Annotated[Path, typer.Argument(help="A trace file that names blocks or sessions, also .gz.")],
    out: Out,
    difficulty: Difficulty = "all",
    num_examples: NumExamples = None,
    seed: Seed = 42,
    as_json: AsJson = False,
) -> None:
    """Cut playable scenarios from a real trace, with floor and best known.

    Example: kv-cache-rl scenarios from-trace conversation_trace.jsonl --out windows.jsonl --num-examples 15
    """
    from kv_cache_rl.experiments.eviction.sets import scenarios_from_trace

    total = how_many(num_examples, difficulty)
    cut = scenarios_from_trace(trace, difficulty=difficulty, num_examples=total, seed=seed)
    facts = write_scenarios(out, cut.scenarios)
    tell_written({**facts, "windows": cut.tried, "left_out": list(cut.left_out)}, as_json)


def verify_files(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Scenario files; default: the committed sets.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Play every stored action log again and compare the returns; exit code 1 where one differs.

    Example: kv-cache-rl scenarios verify scenarios/eval/hard.jsonl
    """
    from kv_cache_rl.experiments.eviction.sets import verify as faults_of
    from kv_cache_rl.sim.eviction import FLOOR, SPLITS, load_file, load_scenarios

    if files:
        scenarios = [scenario for path in files for scenario in load_file(path)]
    else:
        scenarios = [scenario for split in SPLITS for scenario in load_scenarios(split=split)]
    counts = Counter(scenario.id for scenario in scenarios)
    found = [
        {"scenario_id": name, "fault": f"the id stands {n} times"} for name, n in counts.items() if n > 1
    ]
    for scenario in track(scenarios, "verify", as_json):
        if scenario.floor_by not in FLOOR:
            fault = f"floor_by: {unknown('rule', scenario.floor_by, FLOOR)}"
            found.append({"scenario_id": scenario.id, "fault": fault})
        found += [{"scenario_id": scenario.id, "fault": fault} for _, fault in faults_of([scenario])]
    if as_json:
        print_json({"scenarios": len(scenarios), "faults": found})
    else:
        for entry in found[:50]:
            typer.echo(f"{entry['scenario_id']}: {entry['fault']}")
        typer.echo(f"{counted(len(scenarios), 'scenario')}, {counted(len(found), 'fault')}")
    if found:
        raise typer.Exit(FAILED)


def show_scenario(
    scenario: Annotated[str, typer.Argument(help="A scenario's id, or FILE.jsonl:ID, or FILE.jsonl of one.")],
    observation: Annotated[
        bool,
        options.option(OUTPUT, "--observation", help="Print the first observation as the model reads it."),
    ] = False,
    view: View = None,
    as_json: AsJson = False,
) -> None:
    """Show what a scenario is made of, or what a model sees of it: the brief view unless told otherwise.

    Example: kv-cache-rl scenarios show eviction-eval-hard-0007-v2
    """
    from kv_cache_rl.sim.eviction import Episode

    found = find_scenario(scenario)
    if view is not None and not observation:
        raise BadInput("--view is given without --observation; add it, or leave out --view")
    if observation:
        text = Episode(found, choose_view(view, "brief")).prompt()
        typer.echo(text)
    elif as_json:
        print_json(found.to_json())
    else:
        print_scenario(found)


def print_scenario(scenario: "Scenario") -> None:
    """The scenario's facts, and its sessions as a table."""
    out = console()
    share = scenario.budget_pages / scenario.gpu_pages
    source = f"  {scenario.difficulty}, {scenario.source}, seed {scenario.seed}"
    out.print(styled((scenario.id, "bold"), source))
    out.print(
        f"{scenario.model} on {scenario.hardware}, {scenario.steps} windows of {scenario.step_ms / 1000:g} s"
    )
    out.print(f"budget {scenario.budget_pages:,} of {scenario.gpu_pages:,} pages ({share:.0%})")
    out.print(f"CPU pool {scenario.cpu_pages:,} pages")
    known = f"floor {scenario.floor:+.4f} by {scenario.floor_by}, best known {scenario.best:+.4f}"
    out.print(known if scenario.referenced else NO_REFERENCES)
    columns = {"seq_id": "left", "kind": "left", "class": "left", "priority": "right", "place": "left"}
    columns |= {"tokens": "right", "turns (arrive: new + out)": "left"}
    table = plain_table(f"{len(scenario.sessions)} sessions", columns)
    for session in scenario.sessions:
        turns = "  ".join(f"{turn.arrive}: {turn.new:,}+{turn.out:,}" for turn in session.turns[:5])
        more = f"  … {len(session.turns) - 5} more" if len(session.turns) > 5 else ""
        numbers = (f"{session.priority / 1000:.2f}", session.place, f"{session.tokens:,}", turns + more)
        table.add_row(session.seq_id, session.kind, session.work_class, *numbers)
    out.print(table)


def generate_file(
    out: Out,
    difficulty: Difficulty = "all",
    num_examples: NumExamples = None,
    seed: Seed = 42,
    committed: Annotated[
        bool, options.option(WORKLOAD, "--committed", help="The sets of the release, into the folder --out.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Generate new scenarios, with floor and best known return.

    A scenario is kept where looking pays; the same arguments give the same file.

    Example: kv-cache-rl scenarios generate --out more.jsonl --difficulty hard --num-examples 100 --seed 7
    """
    from kv_cache_rl.experiments.eviction.sets import COMMITTED_WIDTH, SEEDS, SIZES, make_set
    from kv_cache_rl.sim.eviction import DIFFICULTIES

    if committed:
        written = []
        for split, tier in track(
            [(split, tier) for split in SIZES for tier in DIFFICULTIES], "generate", as_json
        ):
            made, tries = make_set(tier, split, SIZES[split], SEEDS[split], COMMITTED_WIDTH)
            facts = write_scenarios(out / split / f"{tier}.jsonl", made)
            written.append({**facts, "tried": tries, "acceptance": round(len(made) / tries, 4)})
            if not as_json:
                tell_written(written[-1], as_json)
        if as_json:
            print_json({"sets": written})
        return
    choose("difficulty", difficulty, [*DIFFICULTIES, "all"])
    total = how_many(num_examples, difficulty)
    if total < 0:
        raise BadInput("--num-examples is -1, but there is no end to what can be generated; give a number")
    tiers = list(DIFFICULTIES) if difficulty == "all" else [difficulty]
    shares = {tier: total // len(tiers) + (rank < total % len(tiers)) for rank, tier in enumerate(tiers)}
    scenarios, tried = [], 0
    for tier in track([tier for tier in tiers if shares[tier]], "generate", as_json):
        more, tries = make_set(tier, "train", shares[tier], seed)
        scenarios, tried = scenarios + more, tried + tries
    facts = write_scenarios(out, scenarios)
    tell_written({**facts, "tried": tried, "acceptance": round(total / tried, 4)}, as_json)


app = group(
    "Make, check, cut and look at scenario files.",
    {
        "from-trace": cut_from_trace,
        "verify": verify_files,
        "show": show_scenario,
        "generate": generate_file,
    },
)

"""Options that several eviction commands share, and the scenarios they select."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_cache_rl.cli.failures import BadInput, choose
from kv_cache_rl.cli.options import WORKLOAD, names_of, option, policy, said_of, seed, trace

if TYPE_CHECKING:
    from kv_cache_rl.sim.eviction import Scenario

PER_TIER = 5
NO_REFERENCES = "no references: kv-cache-rl oracle finds its best return"
"""What is said of a scenario that stores no floor and no best return."""

Difficulty = Annotated[str, option(WORKLOAD, "--difficulty", "-d", help="easy, medium, hard or all.")]
ScenarioNames = Annotated[
    list[str] | None, typer.Argument(help="Scenario ids or files; default: those the options select.")
]
Split = Annotated[str, option(WORKLOAD, "--split", help="Committed scenario set: train, eval or test.")]
NumExamples = Annotated[
    int | None,
    option(
        WORKLOAD,
        "--num-examples",
        "-n",
        help=f"Scenarios in all, -1 = every one (of a trace 20 per tier); default {PER_TIER} per tier.",
        max=1_000_000,
    ),
]
Seed = Annotated[int, seed("Which scenarios are drawn from the set, cut from the trace, or generated.")]
Trace = Annotated[
    Path | None, trace("Cut the scenarios from this trace file, which names blocks or sessions; also .gz.")
]
View = Annotated[
    str | None,
    option(
        WORKLOAD,
        "--view",
        help="What an observation shows: brief (the 12 rows that matter most) or full.",
    ),
]
History = Annotated[
    str | None,
    option(
        WORKLOAD,
        "--history",
        help="What a model call holds: full (the dialogue so far, the default) or window (one window alone).",
    ),
]
Policies = Annotated[list[str] | None, policy("A policy by name; by comma or repeated.")]


def choose_policies(names: list[str] | None, default: list[str]) -> list[str]:
    """The named policies without repetition, or the default. Raises BadInput for one that does not exist."""
    from kv_cache_rl.sim.eviction import DECIDERS

    return [choose("policy", name, DECIDERS) for name in names_of(names) or default]


def choose_view(view: str | None, default: str) -> str:
    """The view, or the default. Raises BadInput for one that does not exist."""
    from kv_cache_rl.sim.eviction import VIEWS

    return default if view is None else choose("view", view, VIEWS)


def choose_history(history: str | None, default: str = "full") -> str:
    """The history, or the default. Raises BadInput for one that does not exist."""
    from kv_cache_rl.sim.eviction import HISTORIES

    return default if history is None else choose("history", history, HISTORIES)


def how_many(num_examples: int | None, difficulty: str, per_tier: int = PER_TIER) -> int:
    """The total number of scenarios; the default is a few per tier. Raises BadInput below -1 and for 0."""
    if num_examples is None:
        return 3 * per_tier if difficulty == "all" else per_tier
    if num_examples == 0 or num_examples < -1:
        raise BadInput(f"--num-examples is {num_examples}; give a positive number, or -1 for every scenario")
    return num_examples


def select_scenarios(
    difficulty: str, split: str, num_examples: int, seed: int, trace: Path | str | None
) -> tuple["Scenario", ...]:
    """`found_scenarios`; where there are fewer than asked for, stderr says so."""
    scenarios = found_scenarios(difficulty, split, num_examples, seed, trace)
    if len(scenarios) < num_examples:
        told = f"only {len(scenarios)} of the {num_examples} scenarios asked for "
        cut = "were found in the windows tried, of which a larger --num-examples means more"
        typer.echo(f"{told}{'exist' if trace is None else cut}; taking those", err=True)
    return scenarios


def found_scenarios(
    difficulty: str, split: str, num_examples: int, seed: int, trace: Path | str | None
) -> tuple["Scenario", ...]:
    """The scenarios of a committed set, or the windows cut from a trace.

    Raises BadInput where there are none.
    """
    if trace is not None:
        from kv_cache_rl.experiments.eviction.sets import scenarios_from_trace

        scenarios = scenarios_from_trace(
            Path(trace), difficulty=difficulty, num_examples=num_examples, seed=seed
        ).scenarios
    else:
        from kv_cache_rl.sim.eviction import load_scenarios

        scenarios = load_scenarios(difficulty=difficulty, split=split, num_examples=num_examples, seed=seed)
    if not scenarios:
        where = f"{trace}" if trace is not None else f"the {split} set"
        raise BadInput(
            f"{where} gives no scenario for difficulty {difficulty}; choose another difficulty or source"
        )
    return scenarios


SELECTING = ("difficulty", "split", "num_examples", "trace")
"""Parameters that select scenarios, and do nothing else."""


def named_scenarios(
    context: typer.Context,
    names: list[str] | None,
    difficulty: str,
    split: str,
    num_examples: int | None,
    seed: int,
    trace: Path | None,
    selecting: Sequence[str] = SELECTING,
) -> list["Scenario"]:
    """The scenarios of these names, or without any those that the options select.

    Raises BadInput where there are none, or where names and options are given.
    """
    if names:
        if option := said_of(context, selecting):
            raise BadInput(f"{option} selects scenarios, and {names[0]} names one; leave out one of them")
        return [one for name in names for one in _scenarios_of(name)]
    return list(select_scenarios(difficulty, split, how_many(num_examples, difficulty), seed, trace))


def find_scenario(name: str) -> "Scenario":
    """The one scenario of a stable id, of ``FILE.jsonl`` or of ``FILE.jsonl:ID``.

    Raises BadInput where there is none, or more than one.
    """
    found = _scenarios_of(name)
    if len(found) > 1:
        raise BadInput(
            f"{name} holds {len(found):,} scenarios; name one of them, such as {name}:{found[0].id}"
        )
    return found[0]


def _scenarios_of(name: str) -> Sequence["Scenario"]:
    """The scenario of an id or of ``FILE.jsonl:ID``, or all of ``FILE.jsonl``. Raises BadInput."""
    from kv_cache_rl.sim.eviction import load_file
    from kv_cache_rl.sim.eviction.scenarios import committed

    path, _, wanted = name.partition(".jsonl:")
    if wanted or name.endswith(".jsonl"):
        found = load_file(Path(f"{path}.jsonl" if wanted else name))
        by_id = {scenario.id: scenario for scenario in found}
        if not by_id:
            raise BadInput(
                f"{name}: the file holds no scenario; make one with kv-cache-rl scenarios generate"
            )
        if not wanted:
            return found
        name = choose("scenario", wanted, by_id)
        same = [one for one in found if one.id == name]
        if any(one != same[0] for one in same):
            raise BadInput(f"{path}.jsonl: {len(same)} scenarios have the id {name}; give each its own")
        return same[:1]
    by_id = committed(name)
    if by_id is None:
        raise BadInput(
            f"{name!r} is not a scenario; give an id such as eviction-eval-hard-0007-v2, FILE.jsonl or "
            "FILE.jsonl:ID"
        )
    return [by_id[choose("scenario", name, by_id)]]

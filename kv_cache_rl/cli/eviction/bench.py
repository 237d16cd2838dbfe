"""``bench``: how fast this is here, beside named peers measured in the same run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from kv_cache_rl.cli import options
from kv_cache_rl.cli.eviction.options import select_scenarios
from kv_cache_rl.cli.exits import FAILED
from kv_cache_rl.cli.measured import Measured, machine_facts, show
from kv_cache_rl.cli.options import AsJson, Check, Seconds
from kv_cache_rl.cli.terminal import print_json

if TYPE_CHECKING:
    from kv_cache_rl.sim.eviction import Scenario


def measure_all(scenarios: Sequence["Scenario"], seconds: float, episodes: int) -> list[Measured]:
    """Every measurement, one after the other."""
    from kv_cache_rl.cli.eviction import measure

    scenario, rate = scenarios[0], "steps/s"
    interpreted, same_code = measure.interpreted_steps(scenario), "same code, interpreted"
    text, trips = measure.text_steps(scenario, seconds), measure.json_round_trips(scenario, seconds)
    numba, library = measure.import_seconds("numba"), measure.import_seconds("kv_cache_rl")
    found = [
        Measured(
            "vectorised simulator, 2 threads",
            measure.vectorised_steps(scenarios, seconds),
            rate,
            1e6,
            peer=same_code,
            peer_value=interpreted,
        ),
        Measured(
            "single episode, no text",
            measure.single_steps(scenario, seconds),
            rate,
            5e4,
            peer=same_code,
            peer_value=interpreted,
        ),
        Measured(
            "single episode, with text",
            text,
            rate,
            5e3,
            peer="json round trip of one observation",
            peer_value=trips,
        ),
        Measured("oracle", measure.oracle_seconds(scenarios), "s/scenario", 0.3, more_is_better=False),
        Measured(
            "import kv_cache_rl",
            library,
            "s",
            0.3,
            more_is_better=False,
            peer="import numba",
            peer_value=numba,
        ),
        Measured(
            "kv-cache-rl --help",
            measure.help_seconds(),
            "s",
            0.5,
            more_is_better=False,
            peer="import numba",
            peer_value=numba,
        ),
    ]
    if (decisions := measure.gym_decisions(seconds)) is not None:
        name, peer = "Gymnasium batch, 256 caches, 2 threads", "Gymnasium's SyncVectorEnv, single caches"
        found.insert(2, Measured(name, decisions[0], "decisions/s", None, True, peer, decisions[1]))
    evaluation = measure.evaluation_cpu_seconds(episodes)
    if evaluation is not None:
        bare = scenario.steps / text
        peer = "same episode without a chat model"
        found.append(
            Measured("evaluation through verifiers", evaluation, "CPU-s/episode", 0.2, False, peer, bare)
        )
        # Its tool server and first programs take several episodes' worth to start, whatever the number of
        # episodes.
        other = measure.evaluation_cpu_seconds(8, harness="null", besides=2)
        if other is not None:
            ours = "the default harness"
            found.append(
                Measured(
                    "the same, `null` harness, started", other, "CPU-s/episode", None, False, ours, evaluation
                )
            )
    return found


def run_bench(
    seconds: Seconds = 1.0,
    episodes: Annotated[int, options.episodes("Episodes of the evaluation that is measured.")] = 30,
    check: Check = False,
    as_json: AsJson = False,
) -> None:
    """Measure how fast simulator, oracle, imports and evaluation are, beside named peers.

    The `null` harness is measured where `uv` is on the PATH (it starts its programs with it).

    Example: kv-cache-rl bench --json
    """
    scenarios = select_scenarios("all", "eval", 6, 42, None)
    found, machine = measure_all(scenarios, seconds, episodes), machine_facts()
    missed = [one for one in found if one.met is False]
    if as_json:
        print_json({"measured": [one.to_json() for one in found], "machine": machine})
    else:
        show(found, machine, "bench")
    if check and missed:
        typer.echo(f"missed: {', '.join(one.name for one in missed)}", err=True)
        raise typer.Exit(FAILED)

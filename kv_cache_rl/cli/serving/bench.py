"""``serving bench``: how fast the serving world is here, beside named peers measured in the same run."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated

import typer

from kv_cache_rl.cli import options
from kv_cache_rl.cli.exits import FAILED
from kv_cache_rl.cli.failures import choose
from kv_cache_rl.cli.measured import Measured, show
from kv_cache_rl.cli.options import AsJson, Check, Seconds, names_of
from kv_cache_rl.cli.terminal import Bar, print_json
from kv_cache_rl.extras import need

PARTS = ("episode", "gym", "vector")
SERVERS, THREADS = 256, 2
"""More servers are no faster (256) or slower (512): what a step touches outgrows the caches."""
POLICIES = {"do_nothing": "no-op", "lru": "lru"}
"""Policy → what it is called."""


def measurements(parts: list[str], seconds: float) -> Iterator[Callable[[], Measured]]:
    """How to measure every wanted part."""
    from kv_cache_rl.cli.serving import measure

    def episode(policy: str, name: str) -> Measured:
        rate, peer = measure.ticks_per_second(policy, seconds), measure.interpreted_ticks(policy)
        return Measured(
            f"one compiled server, {name}",
            rate,
            "ticks/s",
            3e5,
            peer="same code, interpreted",
            peer_value=peer,
        )

    def gym(policy: str, name: str) -> Measured:
        rate, peer = measure.gym_steps(policy, seconds), measure.cartpole_steps(seconds)
        return Measured(
            f"Gymnasium step, {name}", rate, "steps/s", 1e5, peer="Gymnasium's CartPole-v1", peer_value=peer
        )

    def vector(policy: str, name: str) -> Measured:
        states = measure.in_mid_episode(SERVERS)
        taken = measure.actions_of(policy, states)
        rate = measure.vector_decisions(states, taken, seconds, THREADS)
        peer = measure.synchronous_decisions(states, taken, seconds)
        name = f"vectorised, {SERVERS} servers, {THREADS} threads, {name}"
        return Measured(
            name, rate, "decisions/s", 1e6, peer="Gymnasium's SyncVectorEnv, same servers", peer_value=peer
        )

    measures = {"episode": episode, "gym": gym, "vector": vector}
    for part in PARTS:
        for policy, name in POLICIES.items():
            if part in parts:
                yield partial(measures[part], policy, name)


def run_bench(
    part: Annotated[list[str] | None, options.part(PARTS)] = None,
    seconds: Seconds = 2.0,
    check: Check = False,
    as_json: AsJson = False,
) -> None:
    """Measure ticks, Gymnasium steps and vectorised decisions per second, beside named peers.

    All in the middle of medium's episodes as lru left them; the median of several runs.

    Example: kv-cache-rl serving bench --json
    """
    from kv_cache_rl.cli.measured import machine_facts

    parts = [choose("part", name, PARTS) for name in names_of(part)] or list(PARTS)
    needy = [name for name in parts if name != "episode"]
    if needy:
        need(f"--part {','.join(needy)}", "gymnasium", instead="or measure --part episode alone")
    work, found = list(measurements(parts, seconds)), []
    with Bar("bench", as_json) as bar:
        for done, measured in enumerate(work, 1):
            found.append(measured())
            bar(done, len(work))
    machine = machine_facts()
    if as_json:
        print_json({"measured": [one.to_json() for one in found], "machine": machine})
    else:
        show(found, machine, "serving bench")
    missed = [one.name for one in found if one.met is False]
    if check and missed:
        typer.echo(f"missed: {', '.join(missed)}", err=True)
        raise typer.Exit(FAILED)

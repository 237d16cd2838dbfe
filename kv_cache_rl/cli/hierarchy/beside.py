"""``hierarchy bench --peer libcachesim``: the same accesses in both, misses first, then rates by turns."""

from typing import TYPE_CHECKING

import typer

from kv_cache_rl.cli.exits import FAILED
from kv_cache_rl.cli.measured import Measured, machine_facts, show
from kv_cache_rl.cli.terminal import Bar, console, print_json
from kv_cache_rl.reports.tables import plain_table

if TYPE_CHECKING:
    from kv_cache_rl.experiments.hierarchy.libcachesim import Beside

FAST, FAST_RATE = ("fifo", "sieve", "s3fifo", "slru"), 1e7
"""Policies that reach this rate, whatever the peer does."""


def name_of(one: "Beside") -> str:
    """The policy, and whether its pages differ in size."""
    return f"{one.pair.policy}{', sizes differ' if one.pair.sized else ''}"


def measured(one: "Beside", peer: str) -> Measured:
    """The rate of a pair; its target is the peer's."""
    from kv_cache_rl.experiments.hierarchy.libcachesim import ACCESSES

    theirs = ACCESSES / one.their_seconds if one.their_seconds else None
    least = FAST_RATE if one.pair.policy in FAST else 0.0
    return Measured(
        name_of(one),
        ACCESSES / one.seconds,
        "accesses/s",
        max(theirs or 0.0, least) or None,
        peer=f"{peer} {one.pair.theirs}" if theirs else "",
        peer_value=theirs,
    )


def miss_row(one: "Beside") -> dict:
    """Both counts of a pair, and why they differ; `wrong`: they differ for no known reason."""
    return {
        "policy": one.pair.policy,
        "sizes_differ": one.pair.sized,
        "capacity": one.capacity,
        "misses": one.misses,
        "theirs": one.pair.theirs,
        "their_misses": one.theirs,
        "differs": one.pair.differs,
        "wrong": one.misses != one.theirs and not one.pair.differs,
    }


def run_beside(check: bool, as_json: bool) -> None:
    """Measures all pairs and prints them. Exits with 1 under `check` where one is slower, or miscounts."""
    from kv_cache_rl.experiments.hierarchy import libcachesim as peer

    version = peer.installed()
    with Bar("bench", as_json) as bar:
        found = peer.side_by_side(bar)
    name = f"libCacheSim {version or peer.RECORDED}"
    rows, rates = [miss_row(one) for one in found], [measured(one, name) for one in found]
    machine = machine_facts()
    if as_json:
        facts = {"name": "libCacheSim", "installed": version, "recorded": peer.RECORDED}
        sizes = {"pages": peer.PAGES, "accesses": peer.ACCESSES, "skew": peer.SKEW, "seed": 0}
        head = {"peer": facts, "trace": sizes, "misses": rows}
        print_json(head | {"measured": [one.to_json() for one in rates], "machine": machine})
    else:
        show_misses(rows, name, version is None)
        show(rates, machine, f"hierarchy bench --peer {peer.PACKAGE}")
        if version is None:
            typer.echo(f"libCacheSim is not installed, its misses are recorded ones; {peer.INSTALL}")
    missed = [one.name for one in rates if one.met is False]
    missed += [f"misses of {row['policy']}" for row in rows if row["wrong"]]
    if check and missed:
        typer.echo(f"missed: {', '.join(missed)}", err=True)
        raise typer.Exit(FAILED)


def show_misses(rows: list[dict], name: str, recorded: bool) -> None:
    """The table of misses, and under it what the peer does otherwise."""
    theirs = f"{name}{', recorded' if recorded else ''}"
    table = plain_table("misses", {"policy": "left", "room": "right", "here": "right", theirs: "right"})
    for row in rows:
        policy = f"{row['policy']}{', sizes differ' if row['sizes_differ'] else ''}"
        counts = [f"{row[column]:,}" for column in ("capacity", "misses", "their_misses")]
        table.add_row(policy, *counts, style="red" if row["wrong"] else None)
    console().print(table)
    for row in rows:
        if row["differs"]:
            console().print(f"{row['theirs']}: {row['differs']}", soft_wrap=True)

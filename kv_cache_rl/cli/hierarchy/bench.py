"""``hierarchy bench``: how fast the replays are here, beside a named peer in the same run, and how their time
grows.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from kv_cache_rl.cli import options
from kv_cache_rl.cli.exits import FAILED
from kv_cache_rl.cli.failures import BadInput, choose
from kv_cache_rl.cli.hierarchy.beside import run_beside
from kv_cache_rl.cli.measured import Measured, show
from kv_cache_rl.cli.options import RUNNING, WORKLOAD, AsJson, Check, names_of
from kv_cache_rl.cli.terminal import Bar, print_json
from kv_cache_rl.cli.trace_options import readable

PEER = "Python OrderedDict loop, LRU"
RATE = "accesses/s"
PARTS = ("lru", "policies", "sizes", "drift", "length", "residents", "trees")
SCALE = "scale"
"""A part that is measured only where it is named: it writes gigabytes to disk."""
SCALED, SCALED_POLICIES = 100_000_000, ("lru", "fifo", "sieve", "s3fifo", "arc", "lfu")
PEERS = ("libcachesim",)
QUEUE_RATE, RANK_RATE = 5e6, 2e6
"""Accesses per second, with all metrics, of policies that move links and of those that keep a heap."""
LINEAR, LOGARITHMIC = 1.1, 0.35
"""Exponents that count as linear in length, and as at most logarithmic in residents: the logarithm alone is a
slope of 0.1 from 4,096 to 65,536 pages, the rest is what leaves the processor's caches."""


def measurements(
    parts: list[str], accesses: int, sessions: Path | None
) -> Iterator[tuple[str, Callable[[], list[Measured]]]]:
    """(what is measured, how) of every wanted part."""
    from kv_cache_rl.cli.hierarchy import measure
    from kv_cache_rl.sim.hierarchy.policies import POLICIES, order_of
    from kv_cache_rl.sim.hierarchy.queues import QUEUES
    from kv_cache_rl.sim.hierarchy.state import Order

    trace, one, four = (
        measure.zipf_pages(accesses),
        measure.tiers_for(measure.RESIDENT),
        measure.tiers_for(measure.RESIDENT, 4),
    )
    peer: list[float] = []

    def rate(name: str, policy: str, scenario, target: float | None) -> list[Measured]:
        peer or peer.append(measure.ordered_dict_rate(trace.run_start, measure.RESIDENT))
        value = trace.accesses / measure.engine_seconds(trace, scenario, policy)
        return [Measured(name, value, RATE, target, peer=PEER, peer_value=peer[0])]

    def plain() -> list[Measured]:
        peer or peer.append(measure.ordered_dict_rate(trace.run_start, measure.RESIDENT))
        value = measure.run_length_rate(trace, measure.RESIDENT)
        return [Measured("lru, one tier, hits only", value, RATE, 1e7, peer=PEER, peer_value=peer[0])]

    def growth(policy: str, by: str) -> list[Measured]:
        if by == "length":
            return [
                Measured(
                    f"{policy}: exponent in trace length", measure.length_exponent(policy), "", LINEAR, False
                )
            ]
        return [
            Measured(
                f"{policy}: exponent in residents", measure.resident_exponent(policy), "", LOGARITHMIC, False
            )
        ]

    def drift(policy: str) -> list[Measured]:
        name, grows = f"{policy}, one page per access", f"{policy}: exponent in residents, per eviction"
        found = [Measured(name, measure.drift_rate(policy), "evictions/s", 3e5)]
        if order_of(policy) == Order.MATCHED:
            found.append(Measured(grows, measure.drift_exponent(policy), "", LOGARITHMIC, False))
        return found

    def sizes(pages, room, policy: str) -> list[Measured]:
        value = pages.accesses / measure.engine_seconds(pages, room, policy)
        return [Measured(f"{policy}, one tier, sizes differ", value, RATE, 2e6)]

    scanned = [policy for policy in POLICIES if order_of(policy) in (Order.SCANNED, Order.MATCHED)]
    if "lru" in parts:
        yield "lru, hits only", plain
        yield "lru, one tier", lambda: rate("lru, one tier, all metrics", "lru", one, None)
        yield "lru, four tiers", lambda: rate("lru, four tiers, all metrics", "lru", four, 3e6)
    if "policies" in parts:
        for policy in POLICIES:
            if policy not in (*scanned, "lru"):
                target = QUEUE_RATE if policy in QUEUES else RANK_RATE
                yield (
                    policy,
                    lambda policy=policy, target=target: rate(f"{policy}, one tier", policy, one, target),
                )
    if "drift" in parts:
        for policy in scanned:
            yield policy, lambda policy=policy: drift(policy)
    if "sizes" in parts:
        sized, room = measure.sized_pages(accesses)
        for policy in ("lfu", "gdsf", "largest_first"):
            yield f"{policy}, sizes differ", lambda policy=policy: sizes(sized, room, policy)
    for part in ("length", "residents"):
        for policy in ("lru", "lfu", "arc") if part in parts else ():
            yield f"{policy} by {part}", lambda policy=policy, part=part: growth(policy, part)
    if SCALE in parts:
        yield SCALE, scale_measurements
    if sessions is not None:
        yield sessions.name, lambda: session_measurements(sessions, trees="trees" in parts)


def scale_measurements() -> list[Measured]:
    """A trace too large for its columns, from disk, in a process of its own so that its memory is known."""
    from kv_cache_rl.cli.hierarchy.measure import scale_facts

    found = scale_facts(SCALED, SCALED_POLICIES)
    count, head = found["accesses"], f"{found['accesses'] / 1e6:.0f} M accesses"
    return [
        Measured(f"{head}: writing the file", found["write_s"], "s", None, False),
        Measured(f"{head}: reading the file", found["load_s"], "s", None, False),
        *(
            Measured(f"{head}: {policy}, hits only", count / seconds, RATE)
            for policy, seconds in found["seconds"].items()
        ),
        Measured(f"{head}: most memory, all in all, each", found["bytes"] / count, "bytes", 12, False),
    ]


def session_measurements(path: Path, trees: bool) -> list[Measured]:
    """Run-length replay and curve of a session trace, in a process of its own so that its memory is known.

    `trees`: also the engine under every policy in one tier, and under every queue and `ttl` in four.
    """
    from kv_cache_rl.cli.hierarchy.measure import session_facts
    from kv_cache_rl.sim.hierarchy.policies import POLICIES
    from kv_cache_rl.sim.hierarchy.queues import QUEUES

    found = session_facts(path, one=POLICIES, four=(*QUEUES, "ttl")) if trees else session_facts(path)
    millions = f"{found['accesses'] / 1e6:.1f} M accesses"
    return [
        Measured(f"sessions: LRU replay, {millions}", found["replay_s"], "CPU s", 10, False),
        Measured(f"sessions: exact LRU curve, {millions}", found["curve_s"], "CPU s", 20, False),
        Measured("sessions: most memory, loading included", found["gib"], "GiB", 2, False),
        Measured("sessions: reading the file", found["load_s"], "CPU s", None, False),
        *(
            Measured(f"sessions: {replayed}, {millions}", seconds, "CPU s", 30, False)
            for replayed, seconds in found["policy_s"].items()
        ),
    ]


def run_bench(
    part: Annotated[list[str] | None, options.part((*PARTS, SCALE))] = None,
    accesses: Annotated[
        int,
        options.option(WORKLOAD, "--accesses", help="Accesses of the Zipf trace of the rates.", min=100_000),
    ] = 4_000_000,
    trace: Annotated[Path | None, options.trace("Also replay this Claude Code trace over its runs.")] = None,
    peer: Annotated[
        str | None,
        options.option(
            RUNNING,
            "--peer",
            help="libcachesim: compare with it instead, on accesses of its own, misses first. It is "
            "installed by hand.",
        ),
    ] = None,
    check: Check = False,
    as_json: AsJson = False,
) -> None:
    """Measure how fast the replays are, beside an OrderedDict loop, and how their time grows.

    At 50,000 resident pages, compilation left out. The part scale, which writes 2.4 GB, has to be named.

    Example: kv-cache-rl hierarchy bench --part lru,policies --check
    """
    from kv_cache_rl.cli.measured import machine_facts
    from kv_cache_rl.experiments.hierarchy.sweep import warm_up

    if peer is not None:
        choose("peer", peer, PEERS)
        run_beside(check, as_json)
        return
    known = (*PARTS, SCALE)
    parts = [choose("part", name, known) for name in names_of(part)] or list(PARTS)
    if trace is not None:
        readable(trace)
    elif part and "trees" in parts:
        raise BadInput("--part trees is of sessions; name their file with --trace, or leave it out")
    warm_up()
    work = list(measurements(parts, accesses, trace))
    found: list[Measured] = []
    with Bar("bench", as_json) as bar:
        for done, (_, measured) in enumerate(work, 1):
            found += measured()
            bar(done, len(work))
    machine = machine_facts()
    if as_json:
        print_json({"measured": [one.to_json() for one in found], "machine": machine})
    else:
        show(found, machine, "hierarchy bench")
    missed = [one.name for one in found if one.met is False]
    if check and missed:
        typer.echo(f"missed: {', '.join(missed)}", err=True)
        raise typer.Exit(FAILED)

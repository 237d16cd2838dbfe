"""The rows of ``hierarchy replay``: one per scenario and policy, by the method that suits it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.cli.hierarchy.options import BELADY, ENDED
from kv_cache_rl.cli.terminal import Bar, percent

if TYPE_CHECKING:
    from kv_cache_rl.sim.hierarchy.curves.runs import Pieces
    from kv_cache_rl.sim.hierarchy.spec import Scenario
    from kv_cache_rl.sim.hierarchy.traces.accesses import Accesses
    from kv_cache_rl.sim.hierarchy.traces.trace import Trace

RUN_LENGTH, ENGINE, BOUND, HITS = "run-length", "engine", "bound", "hits only"


def replay_rows(
    trace: "Trace",
    scenarios: Sequence["Scenario"],
    policies: Sequence[str],
    seed: int,
    points: int,
    sequences: bool,
    bar: Bar,
) -> list[dict]:
    """A row per scenario and policy.

    LRU on one tier counted in blocks goes over runs, not blocks; the hits are the same.
    """
    from kv_cache_rl.sim.hierarchy.curves.runs import pieces
    from kv_cache_rl.sim.hierarchy.sizes import page_sizes

    lean = not (points or sequences)
    rows: list[dict] = []
    cut = pieces(trace) if trace.chained else None
    for scenario in scenarios:
        page_sizes(trace, scenario)  # refuses a precision of unknown bytes, and a page larger than a tier
        bound = bound_row(trace, scenario, cut)
        for policy in policies:
            if policy == BELADY:
                rows.append(bound)
            else:
                fast = lean and counts_blocks(trace, scenario)
                if policy == ENDED and not (fast and trace.chained):
                    raise BadInput(
                        f"{ENDED} counts hits of a prefix-tree trace in one tier of blocks, and nothing "
                        "else; use lru"
                    )
                row = (
                    run_length_row(trace, scenario, policy, cut)
                    if fast and policy in ("lru", ENDED)
                    else engine_row(trace, scenario, policy, seed, points, sequences)
                )
                rows.append(beside_bound(row, bound))
            bar(len(rows), len(scenarios) * len(policies))
    return rows


def refuse_beside_hits(given: dict[str, Any], rules: dict[str, Any]) -> None:
    """Raises BadInput for an option, or a rule that is not the default one, of more than hits in one tier."""
    from kv_cache_rl.experiments.hierarchy.settings import RULES

    said = [name for name, value in given.items() if value]
    said += [name for name, value in rules.items() if value != RULES[name]]
    if said:
        raise BadInput(
            f"--hits-only counts hits of pages in one tier, and nothing else; leave out it or "
            f"--{said[0].replace('_', '-')}"
        )


def refuse_precision(trace: "Trace", rules: Mapping[str, Any]) -> None:
    """Raises BadInput for a precision where a capacity counts blocks and the trace knows their bytes."""
    import numpy as np

    for name in ("footprint", "squeeze"):
        if rules[name] != "fp16" and np.any(trace.page_bytes):
            raise BadInput(
                f"--{name} {rules[name]} is of bytes, and --capacity counts blocks here; give bytes "
                "(--capacity 60KB), or --tiers"
            )


def refuse_idle(
    trace: "Trace", scenario: "Scenario", policies: Sequence[str], points: int, sequences: bool
) -> None:
    """Raises BadInput for an option that can change no number of this replay: a user expects that it did.

    Args:
        points, sequences: of --time-line and --by-sequence.
    """
    from kv_cache_rl.experiments.hierarchy.settings import RULES, free_transfers
    from kv_cache_rl.policies.rank import RANKS

    below = len(scenario.tiers) > 1
    crosses = below and not free_transfers(trace, scenario)
    cross = "--tiers, and --model where the trace knows no bytes"
    foretelling = [name for name, rank in RANKS.items() if rank.prefetches]
    fetched = below and not trace.chained and not set(foretelling).isdisjoint(policies)
    predict = f"--tiers, a trace of pages and --policy {'|'.join(foretelling)}"
    deep = len(scenario.tiers) > 2 or trace.chained  # of chains the replay says itself why it takes none
    spent = scenario.overlap or scenario.reserve == "stability"
    spend = "--overlap or --reserve stability, which make use of those seconds"
    packed = scenario.footprint != "fp16" or scenario.squeeze != "fp16"
    lean = not (points or sequences) and counts_blocks(trace, scenario)
    played = not set(policies) <= {BELADY}
    timed = not set(policies) <= ({BELADY, "lru", ENDED} if lean else {BELADY})
    play = f"a policy that is played, where {BELADY} alone is counted"
    seconds = (
        f"--model, --tiers, --time-line or a policy that is played: lru and {BELADY} count hits alone here"
    )
    time = seconds if lean else play

    def of_a_play(matters: bool = True, needs: str = "") -> tuple[bool, str]:
        """Whether a rule of policies that are played matters, and what it needs where it does not."""
        return matters and played, play if matters else needs

    rules = (
        ("--prefetch", scenario.prefetch, fetched, predict),
        ("--overlap", scenario.overlap, *of_a_play(crosses, cross)),
        ("--recompute", scenario.recompute, *of_a_play(crosses, cross)),
        ("--compute-s", scenario.compute_s, spent, spend),
        ("--promotion", scenario.promotion != "top", *of_a_play(deep, "three tiers")),
        ("--hardware", scenario.hardware != RULES["hardware"], timed, time),
        ("--calibration", scenario.calibration != RULES["calibration"], timed or packed, time),
        ("--reserve", scenario.reserve != "none", *of_a_play()),
        ("--time-line", points, *of_a_play()),
        ("--by-sequence", sequences, *of_a_play()),
    )
    for rule, given, matters, needs in rules:
        if given and not matters:
            raise BadInput(f"{rule} changes nothing here: it needs {needs}; or leave it out")


def hits_rows(trace: Any, scenarios: Sequence["Scenario"], policies: Sequence[str], bar: Bar) -> list[dict]:
    """A row per scenario and policy, of hits alone; `trace` are the `Accesses` of one."""
    from kv_cache_rl.sim.hierarchy.flat import hits_of

    rows: list[dict] = []
    for scenario in scenarios:
        capacity = scenario.tiers[0].capacity
        for policy in policies:
            if policy in (BELADY, ENDED):
                raise BadInput(f"--hits-only has no {policy}; leave out one of them")
            hits = hits_of(policy, [trace.ids], trace.blocks, capacity, trace.page_bytes)
            unbound = {"bound": None, "bound_hit_rate": None, "regret_to_bound": None}
            rows.append(hits_row(trace, scenario, policy, HITS, hits) | unbound)
            bar(len(rows), len(scenarios) * len(policies))
    return rows


def counts_blocks(trace: "Trace", scenario: "Scenario") -> bool:
    """Whether a scenario is one tier with room for a number of equal blocks and nothing else."""
    plain = (
        scenario.footprint == scenario.squeeze == "fp16"
        and scenario.promotion == "top"
        and scenario.reserve == "none"
    )
    return plain and len(scenario.tiers) == 1 and isinstance(trace.page_bytes, int) and trace.page_bytes == 0


def head(trace: "Trace | Accesses", scenario: "Scenario", policy: str, method: str) -> dict[str, Any]:
    from kv_cache_rl.experiments.hierarchy.settings import tier_capacities

    capacities = tier_capacities(scenario)
    return {
        "trace": trace.name,
        "policy": policy,
        "capacity": scenario.tiers[0].capacity,
        "tiers": capacities,
        "method": method,
        "written_blocks": written_blocks(trace),
        "warm_up_requests": trace.warm_up,
    } | ({"left_out": trace.left_out} if trace.left_out else {})


def written_blocks(trace: "Trace | Accesses") -> int:
    """Blocks that decoding puts into the cache; 0 where prompts alone are replayed."""
    return 0 if trace.writes is None else len(trace.writes.block)


def hits_row(
    trace: "Trace | Accesses", scenario: "Scenario", policy: str, method: str, hits: int
) -> dict[str, Any]:
    """A row of a method that counts hits and nothing else."""
    rate = hits / trace.accesses
    counts = {
        "accesses": trace.accesses,
        "hit_rate": rate,
        "overall_hit_rate": rate,
        "miss_count": trace.accesses - hits,
    }
    return {**head(trace, scenario, policy, method), **counts}


def run_length_row(trace: "Trace", scenario: "Scenario", policy: str, cut: "Pieces | None") -> dict[str, Any]:
    from kv_cache_rl.sim.hierarchy.curves.runs import lru

    return hits_row(
        trace, scenario, policy, RUN_LENGTH, lru(trace, scenario.tiers[0].capacity, cut, policy == ENDED)
    )


def bound_row(trace: "Trace", scenario: "Scenario", cut: "Pieces | None") -> dict[str, Any]:
    """What no policy that fetches on demand can beat in the fastest tier."""
    from kv_cache_rl.experiments.hierarchy.cells import bound_capacity
    from kv_cache_rl.sim.hierarchy.curves.bound import min_hits

    name, blocks = bound_capacity(trace, scenario)
    row = hits_row(trace, scenario, BELADY, BOUND, min_hits(trace, blocks, cut))
    return {**row, "bound": name, "bound_hit_rate": row["hit_rate"], "regret_to_bound": 0.0}


def engine_row(
    trace: "Trace", scenario: "Scenario", policy: str, seed: int, points: int, sequences: bool
) -> dict[str, Any]:
    from kv_cache_rl.sim.hierarchy.engine import run

    done = run(trace, scenario, policy, seed=seed)
    more: dict[str, Any] = {"time_line": done.time_line(points)} if points else {}
    if sequences:
        more["by_sequence"] = {name: column.tolist() for name, column in done.by_sequence().items()}
    row = {**head(trace, scenario, policy, ENGINE), **done.metrics, **more}
    if len(scenario.tiers) == 1:
        return row
    alone = run(trace, replace(scenario, tiers=scenario.tiers[:1]), policy, seed=seed).metrics
    return {**row, **beside_one_tier(done.metrics, alone)}


def beside_one_tier(found: dict[str, Any], alone: dict[str, Any]) -> dict[str, Any]:
    """What the lower tiers gain: `alone` are the metrics of the same replay in the fastest tier only."""
    from kv_cache_rl.sim.hierarchy.score import reached_rate

    reached, without = reached_rate(found), reached_rate(alone)
    gain_s = (alone["avg_latency_ms"] - found["avg_latency_ms"]) / 1e3
    offload = {"without_reached_rate": without, "without_avg_latency_ms": alone["avg_latency_ms"]}
    offload |= {"gain_points": 100 * (reached - without), "gain_s_per_request": gain_s}
    return {"reached_rate": reached, "offload": offload}


LEAST = 1e-6
"""Points and seconds of which less is said to be 0: sums of floats differ by as much."""


def offload_line(row: dict[str, Any]) -> str:
    """One sentence on what the lower tiers gain."""
    gain, rates = row["offload"], (row["offload"]["without_reached_rate"], row["reached_rate"])
    points, seconds = gain["gain_points"], gain["gain_s_per_request"]
    felt = [value if abs(value) >= LEAST else 0.0 for value in (points, seconds)]
    words = [f"{'gains' if value >= 0 else 'costs'} {abs(value):.4g}" for value in felt]
    before, after = (percent(rate) for rate in rates)
    slow, fast = (ms / 1e3 for ms in (gain["without_avg_latency_ms"], row["avg_latency_ms"]))
    return (
        f"{row['policy']}: offload {words[0]} points ({before} to {after} of accesses reach the model "
        f"without being computed) and {words[1]} s/request ({slow:.4g} to {fast:.4g})"
    )


def beside_bound(row: dict[str, Any], bound: dict[str, Any]) -> dict[str, Any]:
    """The row with the bound; without one where pages came before they were asked for."""
    if row.get("prefetch_requests"):
        return {**row, "bound": None, "bound_hit_rate": None, "regret_to_bound": None}
    rate = bound["hit_rate"]
    return {**row, "bound": bound["bound"], "bound_hit_rate": rate, "regret_to_bound": rate - row["hit_rate"]}

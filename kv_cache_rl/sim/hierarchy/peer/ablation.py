"""kv-hierarchy-lab's regret ablation run again: 198 runs, 66 means, and statements they do not bear out."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

from kv_cache_rl.sim.hierarchy.generate import workload
from kv_cache_rl.sim.hierarchy.peer.replay import replay_peer_trace
from kv_cache_rl.sim.hierarchy.peer.reproduce import percent
from kv_cache_rl.sim.hierarchy.peer.spec import tiers_over

SEEDS = (7, 42, 91)
ABLATION_SCENARIOS = {"medium": 3, "constrained": 6}
"""Name -> what every base capacity is divided by; fp16, no prefetch."""
ABLATION_WORKLOADS: dict[str, dict[str, int]] = {
    "chat_continuation": {"pages": 80, "length": 512},
    "periodic_reuse": {"pages": 96, "length": 640, "period": 11},
    "adversarial_burst": {"pages": 112, "length": 640, "burst": 14},
}
WEIGHTS, HORIZONS = (1.0, 6.0, 12.0), (8, 24, 64)
AGGREGATED = ("avg_latency_ms", "overall_hit_rate", "miss_count", "bytes_moved", "eviction_count")

Group = tuple[str, str, str]
"""Scenario, workload, policy."""
Means = Mapping[Group, dict]


def variant(weight: float, horizon: int) -> str:
    """The peer's name of a regret_aware with these parameters."""
    return f"regret_aware_w{weight:.1f}_h{horizon}"


VARIANTS: dict[str, dict[str, float]] = {
    variant(weight, horizon): {"regret_weight": weight, "regret_horizon": horizon}
    for weight in WEIGHTS
    for horizon in HORIZONS
}
ABLATION_POLICIES = ("lru", "cost_aware", *VARIANTS)


@dataclass(frozen=True, slots=True)
class AblationRun:
    """One of the 198 runs."""

    seed: int
    scenario: str
    workload: str
    policy: str


def ablation_runs() -> list[AblationRun]:
    """All runs, in the peer's order."""
    names = [(w, p) for w in ABLATION_WORKLOADS for p in ABLATION_POLICIES]
    return [AblationRun(seed, s, w, p) for seed in SEEDS for s in ABLATION_SCENARIOS for w, p in names]


def ablation_row(run: AblationRun) -> dict:
    """One run's row; unlike the peer's row it has the seed."""
    trace = workload(run.workload, seed=run.seed, **ABLATION_WORKLOADS[run.workload])
    policy = "regret_aware" if run.policy in VARIANTS else run.policy
    tiers, parameters = tiers_over(ABLATION_SCENARIOS[run.scenario]), VARIANTS.get(run.policy)
    report = replay_peer_trace(trace, tiers, policy, prefetch=False, parameters=parameters)
    named = {"seed": run.seed, "scenario": run.scenario, "workload": run.workload, "policy": run.policy}
    return named | {"metrics": report.metrics}


def ablation_rows(apply: Callable[..., Iterable[dict]] = map) -> list[dict]:
    """The rows of all runs; `apply(ablation_row, runs)` may spread them over processes."""
    return list(apply(ablation_row, ablation_runs()))


def aggregate(rows: Iterable[dict]) -> list[dict]:
    """Mean and sample standard deviation over seeds, by scenario, workload and policy, in this order."""
    groups: dict[Group, list[dict]] = {}
    for row in rows:
        groups.setdefault((row["scenario"], row["workload"], row["policy"]), []).append(row["metrics"])
    table = []
    for group in sorted(groups):
        line: dict = dict(zip(("scenario", "workload", "policy"), group, strict=True))
        for metric in AGGREGATED:
            values = [metrics[metric] for metrics in groups[group]]
            line[f"{metric}_mean"] = fmean(values)
            line[f"{metric}_std"] = stdev(values) if len(values) > 1 else 0.0
        table.append(line)
    return table


@dataclass(frozen=True, slots=True)
class Statement:
    """A sentence of the peer's text: the value it states, and how the means give that value."""

    says: str
    stated: float | str
    digits: int
    values: Callable[[Means], dict[str, float]]
    """Variant -> value, for every variant that the sentence may mean.

    Where the sentence states a variant, the one key is the answer.
    """


@dataclass(frozen=True, slots=True)
class Verdict:
    """A statement beside the numbers."""

    says: str
    stated: float | str
    found: dict[str, float]
    agrees: bool
    """Whether all variants that the sentence may mean agree."""
    remark: str


def check_statements(aggregated: Iterable[dict]) -> list[Verdict]:
    """The statements of the peer's text about the ablation, beside the means of the runs."""
    means = {(row["scenario"], row["workload"], row["policy"]): row for row in aggregated}
    return [_verdict(statement, statement.values(means)) for statement in STATEMENTS]


def slower_than_lru(aggregated: Iterable[dict], name: str = "chat_continuation") -> list[Group]:
    """The regret variants under which a workload is slower than under lru: all 18 on its default.

    The peer's text leaves them out.
    """
    means = {
        (row["scenario"], row["workload"], row["policy"]): row["avg_latency_ms_mean"] for row in aggregated
    }
    groups = [(scenario, name, policy) for scenario in ABLATION_SCENARIOS for policy in VARIANTS]
    return [group for group in groups if means[group] > means[group[0], name, "lru"]]


def _verdict(statement: Statement, found: dict[str, float]) -> Verdict:
    if isinstance(statement.stated, str):
        right = [name for name in found if name == statement.stated]
    else:
        right = [name for name, value in found.items() if round(value, statement.digits) == statement.stated]
    values = ", ".join(f"{name}: {value:.{statement.digits + 2}f}" for name, value in found.items())
    if len(right) == len(found):
        remark = "agrees"
    elif right:
        remark = f"agrees for {', '.join(right)} only; {values}"
    else:
        remark = f"disagrees; {values}"
    return Verdict(statement.says, statement.stated, found, len(right) == len(found), remark)


def _value(column: str, scenario: str, name: str, *policies: str) -> Callable[[Means], dict[str, float]]:
    return lambda means: {policy: means[scenario, name, policy][column] for policy in policies}


def _against_lru(column: str, scenario: str, policy: str) -> Callable[[Means], dict[str, float]]:
    def change(means: Means) -> dict[str, float]:
        return {
            policy: percent(means[scenario, BURST, policy][column], means[scenario, BURST, "lru"][column])
        }

    return change


def _fastest(scenario: str, name: str) -> Callable[[Means], dict[str, float]]:
    def fastest(means: Means) -> dict[str, float]:
        best = min(VARIANTS, key=lambda policy: means[scenario, name, policy]["avg_latency_ms_mean"])
        return {best: means[scenario, name, best]["avg_latency_ms_mean"]}

    return fastest


BURST, CHAT, LOOP = "adversarial_burst", "chat_continuation", "periodic_reuse"
MS, SPREAD = "avg_latency_ms_mean", "avg_latency_ms_std"
HITS, MISSES, BYTES = "overall_hit_rate_mean", "miss_count_mean", "bytes_moved_mean"
W1_H64, W12_H64, W12_H24 = variant(1.0, 64), variant(12.0, 64), variant(12.0, 24)


def _of_weight(weight: float) -> list[str]:
    return [variant(weight, horizon) for horizon in HORIZONS]


STATEMENTS = (
    # Source: the ablation section of kv-hierarchy-lab's README, commit 222356d.
    Statement("adversarial_burst, constrained: ms of lru", 6.15, 2, _value(MS, "constrained", BURST, "lru")),
    Statement("the same: its ±", 0.10, 2, _value(SPREAD, "constrained", BURST, "lru")),
    Statement("the same: its hit rate in the fast tier", 0.0, 2, _value(HITS, "constrained", BURST, "lru")),
    Statement("adversarial_burst, constrained: the best variant", W1_H64, 3, _fastest("constrained", BURST)),
    Statement(
        "adversarial_burst, constrained: ms of w=1 h=64", 5.94, 2, _value(MS, "constrained", BURST, W1_H64)
    ),
    Statement("the same: its ±", 0.14, 2, _value(SPREAD, "constrained", BURST, W1_H64)),
    Statement("the same: its latency to that of lru, %", -3.4, 1, _against_lru(MS, "constrained", W1_H64)),
    Statement(
        "adversarial_burst, constrained: bytes, w=12 h=64 to lru, %",
        -7.1,
        1,
        _against_lru(BYTES, "constrained", W12_H64),
    ),
    Statement(
        "adversarial_burst, medium: latency, w=12 h=24 to lru, %",
        -6.6,
        1,
        _against_lru(MS, "medium", W12_H24),
    ),
    Statement("the same: its bytes to those of lru, %", -9.1, 1, _against_lru(BYTES, "medium", W12_H24)),
    Statement(
        "chat_continuation, constrained: hit rate of lru", 0.66, 2, _value(HITS, "constrained", CHAT, "lru")
    ),
    Statement(
        "the same: of w=12, no horizon named", 0.61, 2, _value(HITS, "constrained", CHAT, *_of_weight(12.0))
    ),
    Statement(
        "the same: of w=1, no horizon named", 0.53, 2, _value(HITS, "constrained", CHAT, *_of_weight(1.0))
    ),
    Statement(
        "periodic_reuse: misses of lru and of every variant",
        640,
        0,
        _value(MISSES, "medium", LOOP, "lru", *VARIANTS),
    ),
    Statement("the same, constrained", 640, 0, _value(MISSES, "constrained", LOOP, "lru", *VARIANTS)),
)

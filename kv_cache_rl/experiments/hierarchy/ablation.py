"""The regret ablation as a sweep, under the engine's own semantics or those of kv-hierarchy-lab."""

from pathlib import Path

from kv_cache_rl.experiments.hierarchy.artifacts import write_csv
from kv_cache_rl.experiments.hierarchy.cells import Decider
from kv_cache_rl.experiments.hierarchy.comparisons import AGGREGATED, summarised
from kv_cache_rl.experiments.hierarchy.definition import Sweep
from kv_cache_rl.experiments.hierarchy.settings import LAB, Setting
from kv_cache_rl.experiments.hierarchy.sources import from_workload
from kv_cache_rl.files import write_json
from kv_cache_rl.sim.hierarchy.peer.ablation import (
    ABLATION_SCENARIOS,
    ABLATION_WORKLOADS,
    HORIZONS,
    SEEDS,
    WEIGHTS,
    variant,
)

DECAY = 0.98
"""By how much a use fades earlier regret. Source: kv-hierarchy-lab."""
RAW, FLAT, MEANS = "raw_results.json", "summary.csv", "aggregated_summary.csv"


def regret_ablation(semantics: str = "default", seeds: tuple[int, ...] = SEEDS) -> Sweep:
    """lru, cost_aware and nine regret_aware (weight x horizon) on three workloads in two scenarios: 198
    replays with 3 seeds.
    """
    variants = [
        Decider(variant(weight, horizon), "regret_aware", _tuning(semantics, weight, horizon))
        for weight in WEIGHTS
        for horizon in HORIZONS
    ]
    return Sweep(
        name="regret ablation",
        sources=tuple(
            from_workload(name, None, **parameters) for name, parameters in ABLATION_WORKLOADS.items()
        ),
        settings=tuple(
            Setting(
                name,
                laboratory=(1, divisor),
                semantics=semantics,
                rules=(("footprint", "fp16"), ("prefetch", False)),
            )
            for name, divisor in ABLATION_SCENARIOS.items()
        ),
        deciders=(Decider("lru", "lru"), Decider("cost_aware", "cost_aware"), *variants),
        seeds=tuple(seeds),
    )


def _tuning(semantics: str, weight: float, horizon: int) -> tuple:
    if semantics == LAB:
        return (("regret_horizon", horizon), ("regret_weight", weight))
    return (("regret", (weight, DECAY, horizon)),)


def write_tables(folder: Path, rows: list[dict]) -> list[dict]:
    """Writes the rows and their means over the seeds under the peer's file names; returns the means."""
    means = summarised(rows)
    write_json(folder / RAW, rows)
    write_csv(
        folder / FLAT,
        [{**_named(row), **{metric: row["metrics"][metric] for metric in AGGREGATED}} for row in rows],
    )
    write_csv(folder / MEANS, means)
    return means


def _named(row: dict) -> dict:
    return {key: row[key] for key in ("seed", "scenario", "workload", "policy")}

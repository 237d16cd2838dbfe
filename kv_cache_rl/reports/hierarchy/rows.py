"""The rows of a finished sweep, by scenario, workload and policy, and what else its folder knows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

BASE = "lru"
"""The policy that others are compared with."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric as it is drawn."""

    key: str
    title: str
    axis: str
    unit: str
    factor: float
    best: int
    """+1: more is better, -1: less is."""
    top: float = float("inf")
    digits: int = 2


HIT_RATE = Measure(
    "overall_hit_rate", "Hit rate in the fastest tier", "hit rate, % of accesses", "%", 100.0, 1, 100.0, 1
)
LATENCY = Measure(
    "avg_latency_ms",
    "Average latency",
    "average latency, ms per request",
    "ms per request",
    1.0,
    -1,
    digits=3,
)
BYTES = Measure("bytes_moved", "Bytes moved over all links", "MB moved in the whole replay", "MB", 1e-6, -1)
MEASURES = (HIT_RATE, LATENCY, BYTES)


@dataclass(frozen=True, slots=True)
class Results:
    """A finished sweep; rows that failed have no metrics and are in no figure."""

    name: str
    rows: tuple[dict, ...]
    failed: tuple[dict, ...] = ()
    curves: Mapping[str, dict] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    cells: Mapping[tuple[str, str, str], list[dict]] = field(init=False, repr=False, compare=False)
    groups: Mapping[tuple[str, str], list[dict]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        cells: dict[tuple[str, str, str], list[dict]] = {}
        groups: dict[tuple[str, str], list[dict]] = {}
        for row in self.rows:
            cells.setdefault((row["scenario"], row["workload"], row["policy"]), []).append(row)
            groups.setdefault((row["scenario"], row["workload"]), []).append(row)
        object.__setattr__(self, "cells", cells)
        object.__setattr__(self, "groups", groups)

    @property
    def scenarios(self) -> list[str]:
        """Their names, in the sweep's order."""
        return _names(self.rows, "scenario")

    @property
    def workloads(self) -> list[str]:
        return _names(self.rows, "workload")

    @property
    def policies(self) -> list[str]:
        return _names(self.rows, "policy")

    def played(self, scenario: str) -> list[str]:
        """Policies that were replayed in a scenario."""
        return [
            policy
            for policy in self.policies
            if any((scenario, w, policy) in self.cells for w in self.workloads)
        ]

    def values(self, measure: Measure, scenario: str, workload: str, policy: str) -> list[float]:
        """What a policy came to, a value per seed; empty if it was not replayed there, or moved blocks
        whose bytes are not known.
        """
        rows = self.cells.get((scenario, workload, policy), [])
        rows = [row for row in rows if measure is not BYTES or not row.get("free_transfers")]
        return [measure.factor * row["metrics"][measure.key] for row in rows]

    def bound(self, scenario: str, workload: str) -> tuple[str, list[float]]:
        """Name of the bound on the hit rate and its values in %, one per seed; empty where none applies."""
        found: dict[Any, float] = {}
        name = ""
        for row in self.groups.get((scenario, workload), []):
            if row.get("bound_hit_rate") is not None:
                found[row.get("seed")] = HIT_RATE.factor * row["bound_hit_rate"]
                name = row["bound"]
        return name, list(found.values())

    def tied(self, scenario: str, workload: str) -> bool:
        """Whether all policies came to the same there, in every seed."""
        rows = self.groups.get((scenario, workload), [])
        return bool(rows) and all("policies" in row.get("void", ()) for row in rows)

    @property
    def unsized(self) -> list[str]:
        """Workloads whose blocks moved between tiers without known bytes."""
        return _names((row for row in self.rows if row.get("free_transfers")), "workload")

    def rules(self, scenario: str) -> dict:
        """The settings of a scenario, as the sweep defined it."""
        known = {entry.get("name"): entry for entry in self.metadata.get("scenarios", [])}
        return {key: value for key, value in known.get(scenario, {}).items() if key != "name"}


def _names(rows: Iterable[dict], key: str) -> list[str]:
    return list(dict.fromkeys(row[key] for row in rows))


def best_of(means: Mapping[str, float], measure: Measure) -> list[str]:
    """The policies with the best mean; several if they tie."""
    if not means:
        return []
    top = max(measure.best * value for value in means.values())
    return [name for name, value in means.items() if measure.best * value >= top - 1e-9 * max(abs(top), 1.0)]


def ordered(panels: Sequence[Mapping[str, Sequence[float]]], measure: Measure) -> list[str]:
    """All policies, best first by their mean rank over the panels."""
    places: dict[str, list[float]] = {}
    for panel in panels:
        means = {name: fmean(values) for name, values in panel.items() if values}
        ranked = sorted(means.values(), reverse=measure.best > 0)
        for name, mean in means.items():
            places.setdefault(name, []).append(ranked.index(mean))
    return sorted(places, key=lambda name: (fmean(places[name]), name))

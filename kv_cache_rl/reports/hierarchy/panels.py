"""What one set of axes shows: policies with a value per workload or seed, the bound, and whether there is
anything to compare.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean

from kv_cache_rl.intervals import Interval, mean_interval
from kv_cache_rl.reports.hierarchy.rows import BASE, HIT_RATE, Measure, Results, best_of


@dataclass(frozen=True, slots=True)
class Panel:
    """Values of policies under one scenario, or one scenario and workload."""

    title: str
    values: Mapping[str, list[float]]
    bound: list[float] = field(default_factory=list)
    bound_name: str = ""
    tied: bool = False
    ratios: bool = False
    """Whether the values are ratios, whose mean is geometric."""

    def means(self) -> dict[str, Interval]:
        """Means with intervals."""
        if not self.ratios:
            return {name: mean for name, values in self.values.items() if (mean := mean_interval(values))}
        logs = {
            name: mean_interval([math.log(value) for value in values]) for name, values in self.values.items()
        }
        return {name: _exponential(mean) for name, mean in logs.items() if mean}

    def best(self, measure: Measure) -> list[str]:
        """The policies with the best mean; none where all tie."""
        return [] if self.tied else best_of({name: mean.mean for name, mean in self.means().items()}, measure)


def _exponential(mean: Interval) -> Interval:
    low, high = (None if end is None else math.exp(end) for end in (mean.low, mean.high))
    return Interval(mean.n, math.exp(mean.mean), low, high)


def workload_panel(
    results: Results, measure: Measure, scenario: str, workload: str, title: str
) -> Panel | None:
    """A value per seed; None if the measure is zero throughout."""
    values = {p: v for p in results.policies if (v := results.values(measure, scenario, workload, p))}
    if not values or (measure is not HIT_RATE and not any(any(v) for v in values.values())):
        return None
    name, bound = results.bound(scenario, workload) if measure is HIT_RATE else ("", [])
    return Panel(title, values, bound, name, results.tied(scenario, workload))


def scenario_panel(results: Results, measure: Measure, scenario: str, relative: bool) -> Panel | None:
    """A value per workload that all policies were replayed on, its mean over the seeds; of the only workload,
    one per seed.

    `relative`: minus the base's hit rate, or divided by the base's latency or bytes; workloads without any
    are left out."""
    if len(results.workloads) == 1:
        return workload_panel(results, measure, scenario, results.workloads[0], scenario)
    policies = results.played(scenario)
    means = {
        workload: {p: fmean(v) for p in policies if (v := results.values(measure, scenario, workload, p))}
        for workload in results.workloads
    }
    used = [
        w for w, found in means.items() if len(found) == len(policies) and (BASE in found or not relative)
    ]
    if measure is not HIT_RATE:
        used = [w for w in used if (min(means[w].values()) > 0 if relative else any(means[w].values()))]
    if not used:
        return None
    bounds = [results.bound(scenario, w) for w in used] if measure is HIT_RATE else []
    known = bool(bounds) and all(found for _, found in bounds)
    bound = [fmean(found) for _, found in bounds] if known else []
    if relative and measure is HIT_RATE:
        values = {p: [means[w][p] - means[w][BASE] for w in used] for p in policies}
        bound = [value - means[w][BASE] for w, value in zip(used, bound, strict=True)] if known else []
    else:
        values = {p: [means[w][p] / (means[w][BASE] if relative else 1.0) for w in used] for p in policies}
    partly = f" ({len(used)} of {len(results.workloads)})" if len(used) < len(results.workloads) else ""
    tied = all(results.tied(scenario, w) for w in used)
    ratios = relative and measure is not HIT_RATE
    return Panel(scenario + partly, values, bound, bounds[0][0] if known else "", tied, ratios)

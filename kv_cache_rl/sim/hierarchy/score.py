"""The report of a finished replay: its metrics, its time line and its sequences."""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from kv_cache_rl.core.precision import LADDER, PRECISIONS
from kv_cache_rl.sim.hierarchy.spec import Scenario
from kv_cache_rl.sim.hierarchy.state import DOWN, UP, State
from kv_cache_rl.sim.hierarchy.traces.trace import Trace

METRICS = (
    "accesses",
    "hit_rate",  # accesses found in the fastest tier
    "miss_count",  # accesses not found there
    "eviction_count",  # pages that left any tier to make room
    "drop_count",  # pages that left the last tier
    "avg_latency_ms",  # of a request, as the next three
    "latency_p50_ms",
    "latency_p90_ms",
    "latency_p99_ms",
    "overall_hit_rate",  # the peer's name for the hit rate
    "bytes_moved",  # over all links, each link counted
    "demand_bytes_moved",  # of these, caused by demand, demotions included
    "prefetch_bytes_moved",  # of these, caused by prefetches, demotions included
    "prefetch_requests",
    "useful_prefetches",  # pages fetched ahead and accessed later
    "wasted_prefetches",  # pages fetched ahead and not accessed before they left, or at all
    "prefetch_usefulness",  # useful ones of all
    "tier_hit_rate",  # accesses by the tier the page was found in
    "recompute_rate",  # accesses found in no tier
    "recomputed_from_below",  # found in a lower tier, computed anew because that was faster
    "compressions",
    "quality_loss",  # published probability of a wrong answer because of the precision, per access
    "peak_footprint_bytes",  # by tier
    "link_bytes",  # by tier whose link they crossed, upwards and downwards
)


class Totals(NamedTuple):
    """What a replay has added up so far."""

    served: np.ndarray  # int64 [T + 1], as in State
    crossed: np.ndarray  # int64 [T, way, cause]
    counters: dict[str, int]  # of COUNTED
    loss: float
    kl: float

    def since(self, before: "Totals") -> "Totals":
        """What was added after `before`."""
        more = {name: self.counters[name] - before.counters[name] for name in COUNTED}
        served, crossed = self.served - before.served, self.crossed - before.crossed
        return Totals(served, crossed, more, self.loss - before.loss, self.kl - before.kl)


COUNTED = ("evictions", "drops", "compressions", "recomputed", "prefetches", "useful", "wasted")
"""Counters of a state that metrics are made of."""


def totals(state: State) -> Totals:
    """The sums of a replay at the end of its warm-up.

    Pages that were fetched ahead and not used by then are neither useful nor wasted afterwards.
    """
    state.page["pending"] = 0
    return _totals(state)


def _totals(state: State) -> Totals:
    counters = {name: int(getattr(state.counters, name)) for name in COUNTED}
    crossed = state.tiers["crossed"].copy()
    return Totals(state.served.copy(), crossed, counters, float(state.sums.loss), float(state.sums.kl))


def metrics(state: State, trace: Trace, scenario: Scenario, before: Totals | None = None) -> dict:
    """The metrics of a finished replay, keys as in `METRICS`; under a calibration with measured divergences
    also `kl`, nats per access: the mean over accesses of the divergence of the precision each was read at.

    Args:
        before: what was added up at the end of the warm-up, which does not count; None: there was none.
    """
    names = [tier.name for tier in scenario.tiers]
    sums = _totals(state) if before is None else _totals(state).since(before)
    accesses, hits = int(sums.served.sum()), int(sums.served[0])
    counters, tiers, latency = sums.counters, state.tiers, state.latency[trace.warm_up :]
    p50, p90, p99 = (float(v) * 1e3 for v in np.percentile(latency, (50, 90, 99)))
    waiting, crossed = int(state.page["pending"].sum()), sums.crossed
    demand, prefetch = (int(n) for n in crossed.sum(axis=(0, 1)))
    requested = counters["prefetches"]
    values = {
        "accesses": accesses,
        "hit_rate": hits / accesses,
        "miss_count": accesses - hits,
        "eviction_count": counters["evictions"],
        "drop_count": counters["drops"],
        "avg_latency_ms": float(latency.mean()) * 1e3,
        "latency_p50_ms": p50,
        "latency_p90_ms": p90,
        "latency_p99_ms": p99,
        "overall_hit_rate": hits / accesses,
        "bytes_moved": demand + prefetch,
        "demand_bytes_moved": demand,
        "prefetch_bytes_moved": prefetch,
        "prefetch_requests": requested,
        "useful_prefetches": counters["useful"],
        "wasted_prefetches": counters["wasted"] + waiting,
        "prefetch_usefulness": counters["useful"] / requested if requested else 0.0,
        "tier_hit_rate": {name: int(n) / accesses for name, n in zip(names, sums.served, strict=False)},
        "recompute_rate": int(sums.served[-1]) / accesses,
        "recomputed_from_below": counters["recomputed"],
        "compressions": counters["compressions"],
        "quality_loss": _quality_loss(sums, scenario, accesses),
        "peak_footprint_bytes": {name: int(n) for name, n in zip(names, tiers["peak"], strict=True)},
        "link_bytes": {
            name: {"up": int(crossed[t, UP].sum()), "down": int(crossed[t, DOWN].sum())}
            for t, name in enumerate(names)
            if t
        },
    }
    found = {name: values[name] for name in METRICS}
    return (
        found
        if scenario.calibrated.scheme(LADDER[0]).kl is None
        else found | {"kl": _divergence(sums, scenario, accesses)}
    )


def _divergence(sums: Totals, scenario: Scenario, accesses: int) -> float | None:
    """Measured divergence per access; None where that of the footprint was not measured."""
    if scenario.footprint == LADDER[0]:
        return sums.kl / accesses
    kl = scenario.calibrated.scheme(scenario.footprint).kl
    return None if kl is None else kl * (accesses - int(sums.served[-1])) / accesses


def _quality_loss(sums: Totals, scenario: Scenario, accesses: int) -> float | None:
    """Expected loss per access; None for a footprint without published losses."""
    if scenario.footprint != LADDER[0]:
        loss = PRECISIONS[scenario.footprint].loss.get(scenario.work_class)
        return loss if loss is None else loss * (accesses - int(sums.served[-1])) / accesses
    return sums.loss / accesses


def reached_rate(found: dict) -> float:
    """Accesses that reached the model without being computed, of all: found in a tier, and loaded from there.

    `found` are the metrics of a replay.
    """
    accesses = found["accesses"]
    nowhere = round(found["recompute_rate"] * accesses)  # as a count: what is left is no difference of floats
    return (accesses - nowhere - found["recomputed_from_below"]) / accesses


def time_line(state: State, trace: Trace, points: int = 60) -> dict:
    """Hit rate and mean latency in `points` equal parts of the requests, lists of equal length."""
    edges = np.linspace(0, trace.requests, min(points, trace.requests) + 1).astype(int)
    lengths = trace.lengths
    rows = [(slice(a, b), float(trace.time_s[a])) for a, b in pairwise(edges)]
    return {
        "time_s": [at for _, at in rows],
        "hit_rate": [float(state.hits[part].sum() / max(lengths[part].sum(), 1)) for part, _ in rows],
        "latency_ms": [float(state.latency[part].mean()) * 1e3 for part, _ in rows],
    }


def by_sequence(state: State, trace: Trace) -> dict:
    """Requests, accesses, hits and summed seconds, arrays over the sequences of the trace."""
    count = int(trace.sequence.max()) + 1
    return {
        "requests": np.bincount(trace.sequence, minlength=count),
        "accesses": np.bincount(trace.sequence, trace.lengths, count).astype(np.int64),
        "hits": np.bincount(trace.sequence, state.hits, count).astype(np.int64),
        "seconds": np.bincount(trace.sequence, state.latency, count),
    }


@dataclass(frozen=True, slots=True)
class Report:
    """A finished replay."""

    policy: str
    metrics: dict
    """By the names in `METRICS`."""
    state: State
    trace: Trace

    def time_line(self, points: int = 60) -> dict:
        """Hit rate and mean latency over the replay, see `time_line`."""
        return time_line(self.state, self.trace, points)

    def by_sequence(self) -> dict:
        """Accesses, hits and seconds of every sequence, see `by_sequence`."""
        return by_sequence(self.state, self.trace)

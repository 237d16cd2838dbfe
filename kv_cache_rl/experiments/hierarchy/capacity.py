"""Hit rate by capacity: LRU exactly at every capacity from one pass, MIN and all others replayed at some.

source --policies x capacities--> [point] --spread over cores--> hit rates

Of a sample of the blocks, policies are replayed in caches smaller by its rate; LRU there, whose hit rate is
known, says how far off the sample is."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from kv_cache_rl.amounts import amount
from kv_cache_rl.core.errors import unknown
from kv_cache_rl.experiments.hierarchy.cells import traced
from kv_cache_rl.experiments.hierarchy.charges import with_model
from kv_cache_rl.experiments.hierarchy.settings import (
    Bytes,
    capacity_of,
    in_blocks,
    page_total,
    parse_capacity,
    uneven,
)
from kv_cache_rl.experiments.hierarchy.sources import Source
from kv_cache_rl.experiments.workers import mapped
from kv_cache_rl.sim.hierarchy.curves.bound import bound_name, min_hits
from kv_cache_rl.sim.hierarchy.curves.miniature import Sample, estimated, samples
from kv_cache_rl.sim.hierarchy.curves.runs import Curve, Pieces, lru, lru_curve, pieces
from kv_cache_rl.sim.hierarchy.engine import run
from kv_cache_rl.sim.hierarchy.policies import POLICIES
from kv_cache_rl.sim.hierarchy.spec import HierarchyError, one_tier
from kv_cache_rl.sim.hierarchy.traces.trace import Trace

BOUND, ENDED, EXACT = "bound", "lru_ended", "lru"
ALIKE = "MIN with bypass, pages counted alike"


@dataclass(frozen=True, slots=True)
class Point:
    """One replay: a policy (or the bound) in one tier with room for so many blocks."""

    source: Source
    policy: str
    capacity: int
    seed: int | None
    rate: float | None = None
    """Share of the blocks that are replayed; None: all are."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How far off hit rates from a sample of the blocks are, mean absolute errors over the capacities."""

    rate: float
    expected: dict[str, float]
    """Policy that was replayed in the sample -> what the sample says of its own error."""
    lru: float
    """LRU replayed in the sample against LRU replayed whole."""

    def to_json(self) -> dict[str, Any]:
        """As JSON-able values."""
        return {"rate": self.rate, "expected_error": self.expected, "lru_error": self.lru}


@dataclass(frozen=True, slots=True)
class Curves:
    """Hit rates of policies in one tier by its capacity."""

    trace: Trace
    """Its blocks counted alike."""
    capacities: tuple[int, ...]
    """Blocks, increasing."""
    rates: dict[str, list[float]]
    """Policy -> hit rate at each capacity."""
    bound: list[float]
    """What no policy of one tier can beat, at each capacity."""
    bound_name: str
    exact: Curve
    """LRU at every capacity."""
    block_bytes: float | None
    """Bytes of a block at fp16, their mean where they differ; None where they are unknown."""
    uneven: bool = False
    """Whether its pages differ in size, each of which is counted here as one of the mean."""
    sampling: Sampling | None = None
    """Where policies but LRU were replayed over a sample of the blocks; the bound is that of all blocks."""

    def to_json(self) -> dict[str, Any]:
        """Everything but LRU's whole curve, as JSON-able values."""
        size = self.block_bytes
        return {
            "trace": self.trace.name,
            "requests": self.trace.requests,
            "accesses": self.trace.accesses,
            "blocks": self.trace.blocks,
            "block_bytes": size,
            "uneven": self.uneven,
            "capacities": list(self.capacities),
            "capacities_bytes": None if size is None else [round(size * at) for at in self.capacities],
            "hit_rate": self.rates,
            "bound": {"name": self.bound_name, "hit_rate": self.bound},
        } | ({} if self.sampling is None else {"sampled": self.sampling.to_json()})


def capacity_curves(
    source: Source,
    policies: Sequence[str],
    wanted: Sequence[str] | None = None,
    points: int = 16,
    model: str | None = None,
    seed: int | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
    rate: float | None = None,
) -> Curves:
    """The curves of one trace, the same whatever the number of workers.

    Args:
        policies: names in `sim.hierarchy.policies.POLICIES`, or lru_ended for prefix-tree traces.
        wanted: the smallest and the largest capacity (blocks, a share or bytes); None: from a 200th of the
            blocks to all of them.
        points: capacities, evenly spaced in the logarithm.
        model: gives the bytes of blocks.
        seed: draws a workload and the choices of `random`.
        progress: called with (replays done, all of them).
        rate: share of the blocks that policies are replayed over; None: all.

    Raises:
        HierarchyError: an unknown policy or model, or capacities or a rate that cannot be.
    """
    loaded = traced(source, seed)
    if not loaded.accesses:
        raise HierarchyError(f"{source.name} has no accesses; give a trace with at least one request")
    for name in policies:
        if name not in (*POLICIES, ENDED):
            raise HierarchyError(unknown("policy", name, (*POLICIES, ENDED)))
        if name == ENDED and not loaded.chained:
            raise HierarchyError(f"{ENDED} needs a trace of requests, whose sessions end; use {EXACT}")
    sized = with_model(loaded, model) if model else loaded
    trace, size = in_blocks(loaded), bytes_of_block(sized)
    capacities = capacities_between(loaded, size, wanted, points)
    cut = cut_of(source, seed)
    exact = lru_curve(trace, cut)
    replayed = [name for name in (*policies, BOUND) if name != EXACT]
    sampled = [] if rate is None else [EXACT, *(name for name in replayed if name in POLICIES)]
    if rate is not None:
        samples_of(source, seed, rate)
    work = [
        Point(source, name, capacity, seed, rate if name in sampled else None)
        for name in dict.fromkeys((*sampled, *replayed))
        for capacity in capacities
    ]
    found = mapped(hit_rate, work, workers, lambda done: progress(done, len(work)))
    by_name, errors = defaultdict(list), defaultdict(list)
    for point, (share, error) in zip(work, found, strict=True):
        by_name[point.policy].append(share)
        errors[point.policy].append(error)
    whole, sampling = [exact.at(capacity) for capacity in capacities], None
    if rate is not None:
        off = float(np.abs(np.subtract(by_name[EXACT], whole)).mean())
        sampling = Sampling(rate, {name: float(np.mean(errors[name])) for name in sampled}, off)
    by_name[EXACT] = whole
    return Curves(
        trace,
        tuple(capacities),
        {name: by_name[name] for name in policies},
        by_name[BOUND],
        bound_name(trace) or ALIKE,
        exact,
        size,
        uneven(sized),
        sampling,
    )


def hit_rate(point: Point) -> tuple[float, float]:
    """Share of the block accesses that hit, and the error that is expected of it."""
    if point.rate is not None:
        parts = samples_of(point.source, point.seed, point.rate)
        return estimated(parts, point.policy, point.capacity, point.seed or 0)
    trace = in_blocks(traced(point.source, point.seed))
    if point.policy == BOUND:
        hits = min_hits(trace, point.capacity, cut_of(point.source, point.seed))
    elif point.policy == ENDED:
        hits = lru(trace, point.capacity, cut_of(point.source, point.seed), True)
    else:
        found = run(trace, one_tier(point.capacity), point.policy, seed=point.seed or 0).metrics
        return found["hit_rate"], 0.0
    return hits / trace.accesses, 0.0


@lru_cache(1)
def samples_of(source: Source, seed: int | None, rate: float) -> tuple[Sample, ...]:
    """The samples of a trace, made once and inherited by forked workers."""
    return samples(in_blocks(traced(source, seed)), rate, seed or 0)


@lru_cache(2)
def cut_of(source: Source, seed: int | None) -> Pieces:
    """The pieces of a trace, made once and inherited by forked workers."""
    return pieces(in_blocks(traced(source, seed)))


def bytes_of_block(trace: Trace) -> float | None:
    """Bytes of a block, their mean where they differ; None where the trace does not know them."""
    total = page_total(trace)
    return total / trace.blocks if total else None


def capacities_between(
    trace: Trace, size: float | None, wanted: Sequence[str] | None, points: int
) -> list[int]:
    """Whole numbers of blocks, evenly spaced in the logarithm, both ends included."""
    low, high = (
        (max(trace.blocks // 200, 1), trace.blocks)
        if wanted is None
        else (blocks_in(value, trace, size) for value in wanted)
    )
    if low > high:
        raise HierarchyError(
            f"the capacities run from {low:,} to {high:,} blocks; give the smaller one first"
        )
    return sorted({min(round(float(value)), high) for value in np.geomspace(low, high, points)})


def blocks_in(value: str, trace: Trace, size: float | None) -> int:
    """The blocks that fit into a capacity. Raises HierarchyError for none, or less than a block."""
    read = parse_capacity(value)
    if not isinstance(read, Bytes):
        return capacity_of(value, in_blocks(trace))
    if size is None:
        raise HierarchyError(
            f"{value}: {trace.name!r} does not know the bytes of its blocks; name a model, or give blocks"
        )
    if read.count < size:
        raise HierarchyError(f"the capacity {value} is less than one block of {amount(size)}; give more")
    return capacity_of(int(read.count // size), in_blocks(trace))

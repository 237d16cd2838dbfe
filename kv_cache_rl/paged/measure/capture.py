"""A scheduler's page accesses as a trace of the hierarchy lab; LRU replays the same moves.

A step of the scheduler is a step of the trace. A page accessed by a running sequence is a line. The
lab's fastest tier is the pool, the tier below it the host pool. A scheduler that recomputes has one
tier.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kv_cache_rl.core.hardware import LINKS
from kv_cache_rl.paged.residency import GPU, NOWHERE
from kv_cache_rl.paged.scheduler import Scheduler
from kv_cache_rl.sim.hierarchy.engine import run
from kv_cache_rl.sim.hierarchy.score import Report
from kv_cache_rl.sim.hierarchy.spec import Scenario, Tier
from kv_cache_rl.sim.hierarchy.traces.lab_file import save
from kv_cache_rl.sim.hierarchy.traces.trace import Trace, pages

POLICY = "lru"


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of what happened to the pages of a run, or of its replay."""

    accesses: int
    hits: int
    computed: int
    """Accesses that found their page nowhere."""
    swapped_in: int
    swapped_out: int
    evictions: int
    drops: int
    hit_at: tuple[bool, ...]
    """For every access in order, whether it found its page in the fastest memory."""


def captured(scheduler: Scheduler, name: str = "scheduler") -> Trace:
    """The run's page accesses as a trace.

    Raises:
        ValueError: the scheduler has not run, or its pages were cleared during the run.
    """
    accesses = scheduler.residency.accesses
    if not accesses:
        raise ValueError(
            "the scheduler has not run: no page was accessed; add requests and run it before capturing"
        )
    if (scheduler.residency.cleared or len(accesses)) < len(accesses):
        raise ValueError(
            f"pages were cleared after {scheduler.residency.cleared} of {len(accesses)} accesses, "
            "and a trace cannot say so; capture before clearing, or run a new scheduler"
        )
    pool = scheduler.cache.pool
    ids, steps, requests = (
        np.array([getattr(a, field) for a in accesses]) for field in ("page", "step", "request")
    )
    return pages(name, ids, pool.block_nbytes, steps.astype(np.float64), requests, pool.block_tokens)


def capture(scheduler: Scheduler, path: str | Path) -> Trace:
    """Writes `captured` to a file in the lab's own format (gzip if named .gz)."""
    trace = captured(scheduler, Path(path).name)
    save(trace, path)
    return trace


def scenario_of(scheduler: Scheduler) -> Scenario:
    """The lab's memory tiers, with the capacities of the scheduler's pools.

    Their links set seconds only, not which pages move.
    """
    size, host = scheduler.cache.pool.block_nbytes, scheduler.residency.host
    tiers = [Tier("gpu", scheduler.cache.pool.blocks * size, LINKS["hbm2e"])]
    if host is not None:
        tiers.append(Tier("host", host.blocks * size, LINKS["pcie4-conservative"]))
    return Scenario(tuple(tiers))


def counts_of(scheduler: Scheduler) -> Counts:
    """The scheduler's own counts while it moved real pages."""
    kept = scheduler.residency
    found = [access.found for access in kept.accesses]
    return Counts(
        accesses=len(found),
        hits=found.count(GPU),
        computed=found.count(NOWHERE),
        swapped_in=kept.swapped_in,
        swapped_out=kept.swapped_out,
        evictions=kept.evictions,
        drops=kept.drops,
        hit_at=tuple(place == GPU for place in found),
    )


def replayed(trace: Trace, scenario: Scenario) -> Counts:
    """The lab's counts when it replays the trace."""
    return counts_in(run(trace, scenario, POLICY))


def counts_in(replay: Report) -> Counts:
    """The counts of a finished replay over one or two tiers of equal pages."""
    found, size = replay.metrics, int(np.asarray(replay.trace.page_bytes).flat[0])
    crossed = found["link_bytes"].get("host", {"up": 0, "down": 0})
    return Counts(
        accesses=found["accesses"],
        hits=found["accesses"] - found["miss_count"],
        computed=int(replay.state.served[-1]),
        swapped_in=crossed["up"] // size,
        swapped_out=crossed["down"] // size,
        evictions=found["eviction_count"],
        drops=found["drop_count"],
        hit_at=tuple(bool(hits) for hits in replay.state.hits),
    )

"""Curves and replays of a workload or an uploaded trace: what a job does, in a process of its own."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kv_cache_rl.experiments.hierarchy.capacity import capacity_curves
from kv_cache_rl.experiments.hierarchy.cells import bound_capacity
from kv_cache_rl.experiments.hierarchy.charges import how_charged, with_model
from kv_cache_rl.experiments.hierarchy.settings import (
    Bytes,
    capacity_of,
    in_blocks,
    parse_capacity,
)
from kv_cache_rl.experiments.hierarchy.sources import Source, from_file, from_workload
from kv_cache_rl.sim.hierarchy.curves.bound import min_hits
from kv_cache_rl.sim.hierarchy.engine import run
from kv_cache_rl.sim.hierarchy.spec import HierarchyError, one_tier
from kv_cache_rl.sim.hierarchy.traces.trace import Trace

MOST_ACCESSES = 20_000_000
"""Block accesses of a trace that is replayed here; a small file can stand for many."""

OWN = ("kind", "name")
"""Arguments of `from_workload` that are no parameters of a workload."""


def source_of(given: dict[str, Any]) -> Source:
    """The source that a request names: a workload and its parameters, or a file that was uploaded."""
    if "workload" in given:
        kind, parameters = given["workload"], given.get("parameters", {})
        for name in OWN:
            if name in parameters:
                raise HierarchyError(f"{kind} has no parameter {name!r}; leave it out")
        return from_workload(kind, **parameters)
    return from_file(given["file"], given["name"])


def read(given: dict[str, Any], seed: int | None = None) -> Trace:
    """The trace of a source. Raises HierarchyError or TraceError for one that cannot be used here."""
    trace = source_of(given).trace(seed)
    if not trace.accesses:
        raise HierarchyError(f"{trace.name} has no accesses; give a trace with at least one request")
    if trace.accesses > MOST_ACCESSES:
        what = (
            f"{trace.name} has {trace.accesses:,} block accesses, at most {MOST_ACCESSES:,} are replayed here"
        )
        raise HierarchyError(f"{what}; give a shorter one, or use kv-cache-rl hierarchy")
    return trace


def described(given: dict[str, Any]) -> dict[str, Any]:
    """What a trace holds."""
    trace = read(given)
    return {"requests": trace.requests, "accesses": trace.accesses, "blocks": trace.blocks}


def curves(
    given: dict[str, Any],
    policies: Sequence[str],
    points: int,
    model: str | None,
    seed: int | None,
    capacities: Sequence[str] | None,
) -> dict[str, Any]:
    """Hit rate by capacity, as `kv-cache-rl hierarchy curve --json` gives it."""
    name = given.get("name", read(given, seed).name)
    found = capacity_curves(source_of(given), policies, capacities, points, model, seed)
    return found.to_json() | {"trace": name} | _charged(found.trace, model, found.block_bytes or 0)


def replays(
    given: dict[str, Any],
    policies: Sequence[str],
    capacity: str,
    model: str | None,
    seed: int | None,
    points: int,
) -> dict[str, Any]:
    """The metrics of each policy in one tier of this capacity, beside the bound, and their course."""
    loaded = read(given, seed)
    in_bytes = isinstance(parse_capacity(capacity), Bytes)
    trace = with_model(loaded, model) if model else loaded if in_bytes else in_blocks(loaded)
    scenario = one_tier(capacity_of(capacity, trace))
    name, blocks = bound_capacity(trace, scenario)
    best = min_hits(trace, blocks, None) / trace.accesses
    rows = []
    for policy in policies:
        done = run(trace, scenario, policy, seed=seed or 0)
        rows.append({"policy": policy, **done.metrics, "time_line": done.time_line(points)})
    return {
        "trace": given.get("name", trace.name),
        "capacity": scenario.tiers[0].capacity,
        "bound": {"name": name, "hit_rate": best},
        "rows": rows,
    } | _charged(trace, model, int(np.max(trace.page_bytes)))


def _charged(trace: Trace, model: str | None, size: float) -> dict[str, str]:
    """What a block is charged, in words, where the model's cache is not linear in tokens."""
    charged = how_charged(trace, model, size)
    return {"charged": charged} if charged else {}

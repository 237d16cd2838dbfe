"""A replay watched on its way: where accesses were found, how full the tiers are, part by part."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from kv_cache_rl.sim.hierarchy.dynamics import new_state
from kv_cache_rl.sim.hierarchy.engine import advance_trace
from kv_cache_rl.sim.hierarchy.spec import HierarchyError, Scenario
from kv_cache_rl.sim.hierarchy.traces.trace import Trace, expand


@dataclass(frozen=True, slots=True)
class Course:
    """A replay in `N` parts of equally many requests."""

    policy: str
    tiers: tuple[str, ...]
    """T names, fastest first."""
    capacity: tuple[int, ...]
    """In the trace's unit, by tier."""
    time_s: np.ndarray
    """float64 [N], the trace's clock at the end of each part; steps in a page trace."""
    clocked: bool
    """Whether the clock counts seconds."""
    requests: np.ndarray
    """int64 [N], requests replayed by then."""
    served: np.ndarray
    """float64 [N, T + 1], shares of a part's accesses by the tier they were found in; the last: nowhere."""
    used: np.ndarray
    """float64 [N, T], share of each tier that is full at the end of the part."""
    latency_s: np.ndarray
    """float64 [N], mean of the part's requests."""

    def to_json(self) -> dict:
        """Columns as lists, those of tiers by name."""
        found = {name: getattr(self, name).tolist() for name in ("time_s", "requests", "latency_s")}
        by_tier = {name: self.served[:, t].tolist() for t, name in enumerate((*self.tiers, "nowhere"))}
        occupancy = {name: self.used[:, t].tolist() for t, name in enumerate(self.tiers)}
        return found | {"found_in": by_tier, "occupancy": occupancy}


def watch(trace: Trace, scenario: Scenario, policy: str, parts: int = 120, seed: int = 0) -> Course:
    """Replays a trace as `engine.run` does, and looks at it after each part.

    Raises HierarchyError as `engine.run` does.
    """
    if not trace.accesses:
        raise HierarchyError(f"trace {trace.name!r} has no accesses; give one with at least one request")
    state = new_state(trace, scenario, policy, seed)
    first, blocks = expand(trace)
    edges = np.linspace(0, trace.requests, min(max(parts, 1), trace.requests) + 1).astype(np.int64)
    served, used = [state.served.copy()], []
    for begin, end in pairwise(edges):
        advance_trace(state, trace, first, blocks, int(begin), int(end))
        served.append(state.served.copy())
        used.append(state.tiers["used"] / state.tiers["capacity"])
    found = np.diff(np.array(served), axis=0).astype(np.float64)
    waited = np.add.reduceat(state.latency, edges[:-1]) / np.diff(edges)
    return Course(
        policy,
        tuple(tier.name for tier in scenario.tiers),
        tuple(tier.capacity for tier in scenario.tiers),
        trace.time_s[edges[1:] - 1].copy(),
        trace.chained,
        edges[1:],
        found / np.maximum(found.sum(axis=1, keepdims=True), 1),
        np.array(used),
        waited,
    )

"""A trace replayed under a policy, in one call."""

from dataclasses import dataclass

from kv_cache_rl.sim.hierarchy.dynamics import advance
from kv_cache_rl.sim.hierarchy.score import by_sequence, metrics, time_line
from kv_cache_rl.sim.hierarchy.spec import HierarchyError, Scenario
from kv_cache_rl.sim.hierarchy.stack import advance_stack, applies
from kv_cache_rl.sim.hierarchy.state import State, new_state
from kv_cache_rl.sim.hierarchy.traces.trace import Trace, expand


@dataclass(frozen=True, slots=True)
class Run:
    """A finished replay."""

    policy: str
    metrics: dict
    state: State
    trace: Trace

    def time_line(self, points: int = 60) -> dict:
        """Hit rate and mean latency over the run."""
        return time_line(self.state, self.trace, points)

    def by_sequence(self) -> dict:
        """Accesses, hits and seconds of every sequence."""
        return by_sequence(self.state, self.trace)


def run(trace: Trace, scenario: Scenario, policy: str, seed: int = 0, **tuning) -> Run:
    """Replays a trace; `seed` matters to `random` only, `tuning` as in `state.new_state`.

    Raises:
        HierarchyError: unknown policy, an empty trace, pages larger than a tier, settings that do not fit the
            trace.
    """
    if not trace.accesses:
        raise HierarchyError(f"trace {trace.name!r} has no accesses; give one with at least one request")
    state = new_state(trace, scenario, policy, seed, **tuning)
    first, blocks = expand(trace)
    if applies(state, scenario):
        advance_stack(state, blocks)
    else:
        advance(state, first, blocks, 0, trace.requests)
    return Run(policy, metrics(state, trace, scenario), state, trace)

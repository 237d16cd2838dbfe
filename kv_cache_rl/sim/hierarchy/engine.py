"""A trace replayed under a policy, in one call."""

from functools import partial

import numpy as np

from kv_cache_rl.sim.hierarchy import flat, stack
from kv_cache_rl.sim.hierarchy.dynamics import advance, advance_answered, new_state
from kv_cache_rl.sim.hierarchy.flat import advance_flat, small_state
from kv_cache_rl.sim.hierarchy.score import Report, metrics, totals
from kv_cache_rl.sim.hierarchy.spec import HierarchyError, Scenario
from kv_cache_rl.sim.hierarchy.stack import advance_stack
from kv_cache_rl.sim.hierarchy.state import State
from kv_cache_rl.sim.hierarchy.traces.trace import Trace, expand


def run(trace: Trace, scenario: Scenario, policy: str, seed: int = 0, **tuning) -> Report:
    """Replays a trace; `seed` matters to `random` only, `tuning` as in `dynamics.new_state`.

    Raises:
        HierarchyError: unknown policy, something else as a trace or scenario, an empty trace, pages larger
            than a tier, settings that do not fit the trace.
    """
    for given, kind, remedy in ((trace, Trace, "load_trace or pages"), (scenario, Scenario, "one_tier")):
        if not isinstance(given, kind):
            raise HierarchyError(f"{given!r} is no {kind.__name__}; give what {remedy} returns")
    if not trace.accesses:
        raise HierarchyError(f"trace {trace.name!r} has no accesses; give one with at least one request")
    state = new_state(trace, scenario, policy, seed, **tuning)
    first, blocks = expand(trace)
    if stack.applies(state, scenario) and not trace.warm_up:
        advance_stack(state, blocks)
        return Report(policy, metrics(state, trace, scenario), state, trace)
    if flat.applies(state, trace, scenario):
        advance = partial(advance_flat, state, small_state(policy, state), blocks)
    else:
        advance = partial(advance_trace, state, trace, first, blocks)
    advance(0, trace.warm_up)
    before = totals(state) if trace.warm_up else None
    advance(trace.warm_up, trace.requests)
    return Report(policy, metrics(state, trace, scenario, before), state, trace)


def advance_trace(
    state: State, trace: Trace, first: np.ndarray, blocks: np.ndarray, start: int, stop: int
) -> None:
    """Replays the requests of an expanded trace from `start` up to `stop`, with what their decoding wrote."""
    if trace.writes is None:
        advance(state, first, blocks, start, stop)
    else:
        writes = trace.writes
        wrote = writes.first, writes.block, writes.base, writes.room
        advance_answered(state, first, blocks, *wrote, start, stop)

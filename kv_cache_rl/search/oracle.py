"""The oracle: the best action log that a search with the future in hand finds."""

import numpy as np

from kv_cache_rl.search.beam import search
from kv_cache_rl.search.exhaustive import is_small, optimum
from kv_cache_rl.search.polish import anneal, prune
from kv_cache_rl.search.proposals import ALL_VERBS, COMPLETIONS, SHIPPED, VARIANTS
from kv_cache_rl.sim.eviction.calls import named_calls
from kv_cache_rl.sim.eviction.deciders import MAX_OUT
from kv_cache_rl.sim.eviction.episode import replay
from kv_cache_rl.sim.eviction.spec import ActionLog, Scenario
from kv_cache_rl.sim.eviction.state import initial_state, pack

DEFAULT_WIDTH = 6


def solve(
    scenario: Scenario, width: int = DEFAULT_WIDTH, allowed: int = ALL_VERBS, windows: int = 30_000
) -> tuple[ActionLog, float]:
    """The best action log known and its return, never below any shipped decider of the verbs allowed.

    Instances of at most three entries and windows are solved exactly, the rest by `beam`, whose arguments these are.
    """
    log = optimum(scenario)[0] if is_small(scenario) and allowed == ALL_VERBS else beam(scenario, width, allowed, windows)
    return log, replay(scenario, log).total


def beam(scenario: Scenario, width: int = DEFAULT_WIDTH, allowed: int = ALL_VERBS, windows: int = 30_000) -> ActionLog:
    """The best action log that the search alone finds.

    Args:
        width: nodes kept per window.
        allowed: bit set of verbs, for the ablations.
        windows: simulated windows spent on annealing the incumbent at the end.
    """
    scn = pack(scenario)
    start = initial_state(scenario, scn)
    calls = np.zeros((scenario.steps, MAX_OUT, 2), np.int64)
    counts = np.zeros(scenario.steps, np.int64)
    best = search(scn, start, width, VARIANTS, SHIPPED, COMPLETIONS, allowed, calls, counts)
    best = anneal(scn, start, best, allowed, windows, scenario.seed % 2**31, calls, counts)
    prune(scn, start, best, calls, counts)
    # What a dropped call leaves may be refused now.
    prune(scn, start, best, calls, counts)
    return [named_calls(scenario, calls[t, : counts[t]].tolist()) for t in range(scenario.steps)]

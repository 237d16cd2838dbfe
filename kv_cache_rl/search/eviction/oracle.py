"""The oracle: the best action log that a search with the future in hand finds."""

import numpy as np

from kv_cache_rl.core.numbers import whole_number
from kv_cache_rl.search.eviction.beam import search
from kv_cache_rl.search.eviction.exhaustive import is_small, optimum
from kv_cache_rl.search.eviction.polish import anneal, prune
from kv_cache_rl.search.eviction.proposals import (
    ALL_VERBS,
    COMPLETIONS,
    SHIPPED,
    SILENT,
    TRAINED,
    VARIANTS,
    new_log,
)
from kv_cache_rl.search.eviction.rollout import play_policy
from kv_cache_rl.sim.eviction.calls import named_calls
from kv_cache_rl.sim.eviction.deciders import policy_id
from kv_cache_rl.sim.eviction.dynamics import new_state
from kv_cache_rl.sim.eviction.episode import replay
from kv_cache_rl.sim.eviction.log import ActionLog
from kv_cache_rl.sim.eviction.spec import Scenario, ScenarioError
from kv_cache_rl.sim.eviction.state import slot_names

DEFAULT_WIDTH = 6


def solve(
    scenario: Scenario,
    width: int = DEFAULT_WIDTH,
    allowed: int = ALL_VERBS,
    windows: int = 30_000,
    trained: bool = True,
) -> tuple[ActionLog, float]:
    """The best action log known and its return, never below any shipped decider of the verbs
    allowed; without `trained`, never below any but those that were trained on scenarios.

    Instances of at most three entries and windows are solved exactly, the rest by `beam`, whose
    arguments the others are."""
    for what, value in (("width", width), ("windows", windows)):
        whole_number(what, value, 1 if what == "width" else 0, error=ScenarioError)
    if allowed == ALL_VERBS and is_small(scenario):
        log = optimum(scenario)[0]
        return log, replay(scenario, log).total
    log = beam(scenario, width, allowed, windows)
    value = replay(scenario, log).total
    if allowed == ALL_VERBS:
        for name in (*SILENT, *(TRAINED if trained else ())):
            played = rollout_log(scenario, name)
            if (reached := replay(scenario, played).total) > value:
                log, value = played, reached
    return log, value


def rollout_log(scenario: Scenario, name: str) -> ActionLog:
    """The calls of a decider over a whole episode."""
    calls, counts = new_log(scenario.steps)
    play_policy(*new_state(scenario), policy_id(name), calls, counts)
    return _named(scenario, calls, counts)


def _named(scenario: Scenario, calls: np.ndarray, counts: np.ndarray) -> ActionLog:
    names = slot_names(scenario)
    return [named_calls(names, calls[t, : counts[t]].tolist()) for t in range(scenario.steps)]


def beam(
    scenario: Scenario, width: int = DEFAULT_WIDTH, allowed: int = ALL_VERBS, windows: int = 30_000
) -> ActionLog:
    """The best action log that the search alone finds.

    Args:
        width: nodes kept per window.
        allowed: bit set of verbs, for the ablations.
        windows: simulated windows spent on annealing the incumbent at the end.
    """
    scn, start = new_state(scenario)
    calls, counts = new_log(scenario.steps)
    best = search(scn, start, width, VARIANTS, SHIPPED, COMPLETIONS, allowed, calls, counts)
    best = anneal(scn, start, best, allowed, windows, scenario.seed % 2**31, calls, counts)
    prune(scn, start, best, calls, counts)
    # What a dropped call leaves may be refused now.
    prune(scn, start, best, calls, counts)
    return _named(scenario, calls, counts)

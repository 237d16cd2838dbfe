"""The clairvoyant reference of the serving world: the best plan found by playing every base policy on copies
of the server.

    plan <- the base policy that does best alone, in every segment
    for each segment, in order:
        every base policy plays the segment on a copy, the plan plays on to the end
        plan[segment] <- the best of them

A plan is only ever replaced by a better one, so the oracle is at least as good as every base policy on every
episode. It sees what no agent can: arrivals and lengths that are yet to come, through the results of its
copies. Several passes go over it again.

Source: rollout and rolling-horizon search, Bertsekas, "Rollout, policy iteration, and distributed
reinforcement learning", 2020, chapter 2 (sequential improvement and the fortified variant)."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from kv_cache_rl.search.serving.rollout import finish
from kv_cache_rl.sim.serving.bound import fluid_bound
from kv_cache_rl.sim.serving.dynamics import new_state
from kv_cache_rl.sim.serving.heuristics import HEURISTICS, memory_of
from kv_cache_rl.sim.serving.score import Report, parts_of, report, weighed
from kv_cache_rl.sim.serving.spec import Scenario, ServingError
from kv_cache_rl.sim.serving.state import State

SEGMENTS = 24

Base = tuple[int, np.ndarray]
"""A base policy: its function's place in `heuristics.FUNCTIONS`, and its memory, which it only reads."""

VARIANTS: dict[str, dict[str, float]] = {
    "shed_from_10": {"shed": 0.10},
    "shed_from_50": {"shed": 0.50},
    "no_reserve": {"base": 0.0, "per_rho": 0.0},
    "large_reserve": {"base": 0.15},
    "ahead": {"target": 0.15},
    "never_swap": {"link": -1.0},
    "idle_link": {"link": 0.3},
    "keep_all": {"collect": 2.0},
}
"""Name → what differs from `stability`."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The oracle's episode."""

    state: State
    """Its end."""
    report: Report
    policies: tuple[str, ...]
    """Which base policy played each segment."""
    best_base: str
    """The base policy that does best alone."""


def bases(learned: Mapping[str, Base] | None = None) -> dict[str, Base]:
    """Name → every policy that a plan is made of: heuristics without memory or canary, variants, `learned`.

    What was learned is handed in: it belongs to the agents, a layer above any search.
    """
    chosen: dict[str, Base] = {
        name: (one.which, memory_of(one.parameters))
        for name, one in HEURISTICS.items()
        if not one.remembers and not one.canary
    }
    stability = HEURISTICS["stability"]
    for name, changes in VARIANTS.items():
        values = dict(zip(stability.names, stability.parameters, strict=True)) | changes
        chosen[name] = stability.which, memory_of(tuple(values.values()))
    return chosen | dict(learned or {})


def solve(
    scenario: Scenario,
    seed: int,
    segments: int = SEGMENTS,
    passes: int = 1,
    workers: int = 2,
    learned: Mapping[str, Base] | None = None,
) -> Plan:
    """The best plan found for an episode; the same for the same arguments, whatever the number of workers.

    Args:
        learned: base policies beside the heuristics, by name.

    Raises:
        ServingError: fewer than one segment or pass.
    """
    for name, value in (("segments", segments), ("passes", passes)):
        if value < 1:
            raise ServingError(f"{name} is {value}; give a whole number from 1")
    named = bases(learned)
    names, policies = tuple(named), tuple(named.values())
    start = new_state(scenario, seed)
    instants = np.linspace(0, int(start.columns.book["end_us"]), segments + 1).astype(np.int64)
    # The clock runs past the end in the last tick; the last segment's policy plays that too.
    instants[-1] = np.iinfo(np.int64).max
    bound = fluid_bound(start.columns)

    def trial(state: State, plan: np.ndarray, first: int) -> float:
        copy = state.copy()
        for k in range(first, segments):
            advance(copy, policies[plan[k]], int(instants[k + 1]))
        return weighed(scenario.task, parts_of(copy.columns, bound))

    with ThreadPoolExecutor(workers) as pool:
        plans = [np.full(segments, k) for k in range(len(names))]
        alone = list(pool.map(lambda plan: trial(start, plan, 0), plans))
        best = int(np.argmax(alone))
        plan, value = plans[best], alone[best]
        state = start
        for _ in range(passes):
            state = start.copy()
            for k in range(segments):
                tried = [np.concatenate([plan[:k], [a], plan[k + 1 :]]) for a in range(len(names))]
                here = [a for a in range(len(names)) if a != plan[k]]
                for a, found in zip(here, pool.map(lambda a: trial(state, tried[a], k), here), strict=True):  # noqa: B023
                    if found > value:
                        plan, value = tried[a], found
                advance(state, policies[plan[k]], int(instants[k + 1]))
    return Plan(state, report(state), tuple(names[a] for a in plan), names[best])


def advance(state: State, policy: Base, until: int) -> None:
    """One base policy plays `state` on until an instant, in place."""
    which, memory = policy
    finish(state, which, memory, until)

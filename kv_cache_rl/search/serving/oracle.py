"""The clairvoyant reference of the serving world: the best plan found by playing every base policy on copies
of the server.

    plan <- the base policy that does best alone, in every segment
    for each segment, in order:
        every base policy plays the segment on a copy, the plan plays on to the end;  plan[segment] <- the best of them

A plan is only ever replaced by a better one, so the oracle is at least as good as every base policy on every
episode. It sees what no agent can: arrivals and lengths that are yet to come, through what its copies come
to. Several passes go over it again.

Source: rollout and rolling-horizon search, Bertsekas, "Rollout, policy iteration, and distributed
reinforcement learning", 2020, chapter 2 (sequential improvement and the fortified variant)."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from kv_cache_rl.jit import uncounted
from kv_cache_rl.search.serving.rollout import play
from kv_cache_rl.sim.serving.actions import ACTIONS
from kv_cache_rl.sim.serving.bound import fluid_bound
from kv_cache_rl.sim.serving.heuristics import FUNCTIONS, HEURISTICS, MEMORY
from kv_cache_rl.sim.serving.observe import RICH
from kv_cache_rl.sim.serving.score import SCORE_WEIGHTS, Report, report
from kv_cache_rl.sim.serving.spec import Scenario, ServingError
from kv_cache_rl.sim.serving.state import (
    ARRIVAL,
    CLOCK,
    ENDED,
    FINISHED,
    FOUND,
    HISTORY,
    OUTPUT,
    PROMPT,
    SERVED,
    STATUS,
    State,
    new_state,
)

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
    """Name → every policy that a plan is made of: the heuristics that serve and remember nothing, variants,
    and `learned`.

    What was learned is handed in, since it belongs to the agents, who stand above any search.
    """
    chosen: dict[str, Base] = {
        name: (FUNCTIONS.index(one.function_name), memory_of(one.parameters))
        for name, one in HEURISTICS.items()
        if not one.remembers and not one.canary
    }
    stability = HEURISTICS["stability"]
    for name, changes in VARIANTS.items():
        values = dict(zip(stability.names, stability.parameters, strict=True)) | changes
        chosen[name] = FUNCTIONS.index("stability"), memory_of(tuple(values.values()))
    return chosen | dict(learned or {})


def memory_of(parameters: tuple[float, ...]) -> np.ndarray:
    memory = np.zeros(MEMORY)
    memory[: len(parameters)] = parameters
    return memory


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
    instants = np.linspace(0, int(start.columns.book[CLOCK, 1]), segments + 1).astype(np.int64)
    # The clock runs past the end in the last tick; whoever is in charge last plays that too.
    instants[-1] = np.iinfo(np.int64).max
    terms = np.array(
        [*SCORE_WEIGHTS.get(scenario.task, SCORE_WEIGHTS["hard"]), max(fluid_bound(start.columns), 1.0)]
    )

    def trial(state: State, plan: np.ndarray, first: int) -> float:
        copy = state.copy()
        for k in range(first, segments):
            advance(copy, policies[plan[k]], int(instants[k + 1]))
        return worth(copy.columns.traffic, copy.columns.book, copy.columns.rows, terms)

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
    seen, mask = np.zeros(len(RICH), np.float32), np.zeros(len(ACTIONS), np.int8)
    play(*state.columns, *policy, seen, mask, until)


@uncounted
def worth(traffic, book, rows, terms):
    """`score.report(...).score` before its edges;

    `terms`: the weights of its three parts, and the fluid bound.
    """
    work, advanced, found, asked = 0, 0.0, 0, 0
    for row in range(len(rows)):
        asked += traffic[row, HISTORY]
        found += max(rows[row, FOUND], 0)
        if rows[row, STATUS] == FINISHED and rows[row, ENDED] <= book[CLOCK, 1]:
            work += traffic[row, PROMPT] + traffic[row, OUTPUT]
            advanced += rows[row, SERVED] / max(rows[row, ENDED] - traffic[row, ARRIVAL], 1)
    residency = found / asked if asked > 0 else 1.0
    return terms[0] * work / terms[3] + terms[1] * advanced / max(len(rows), 1) + terms[2] * residency

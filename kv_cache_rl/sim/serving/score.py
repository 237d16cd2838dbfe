"""Rewards by name, and what an episode comes to, over all requests that arrived."""

from dataclasses import asdict, dataclass

import numpy as np

from kv_cache_rl.files import finite
from kv_cache_rl.sim.serving.bound import fluid_bound
from kv_cache_rl.sim.serving.state import (
    ARRIVAL,
    BLOCK_BYTES,
    CLOCK,
    DROPPED,
    ENDED,
    FINISHED,
    FIRST,
    FORCED,
    FOUND,
    HISTORY,
    N_TERMS,
    OUTPUT,
    PARENT,
    POWER,
    PROMPT,
    REJECTED,
    SERVED,
    SLA_FREE,
    STATUS,
    SWAPPED,
    TERMS,
    TICK,
    VIP,
    WAITED,
    State,
)

TERM_WEIGHTS = {
    "completed_in_sla": 0.1,
    "tokens_served": 0.001,
    "sla_missed": -0.1,
    "dropped": -1.0,
    "rejected": -0.5,
    "forced_preemption": -0.5,
    "swap_traffic": -0.0002,
    "memory_pressure": -0.02,
}
"""Term → weight of one unit: a completion within the SLA · a token computed for the first time, or history
found in a cache · a completion after the SLA · a drop · a rejection (two units if the request would have fit)
· a forced preemption · a block swapped, either way · a nominal tick during which a queue's head did not
fit."""
WEIGHTS = tuple(TERM_WEIGHTS.values())

SCORE_WEIGHTS = {"easy": (0.80, 0.20, 0.00), "medium": (0.60, 0.35, 0.05), "hard": (0.60, 0.35, 0.05)}
"""Task → weights of throughput, latency efficiency and cache residency; tasks of your own score as `hard`
does.
"""
EDGE = 1e-4
"""Scores lie this far inside 0 and 1."""


@dataclass(frozen=True, slots=True)
class Report:
    """What an episode came to.

    Waits and times to first token in nominal ticks; NaN where nobody was served.
    """

    task: str
    seed: int
    score: float
    throughput: float
    """Completed prompt and output tokens over the fluid bound's."""
    latency_efficiency: float
    """Mean over all who arrived of time in which the request advanced over time since arrival; 0 if it never
    finished.
    """
    cache_residency: float
    """History tokens of returning users found on GPU or CPU, over all they brought; 1 if nobody returned."""
    arrived: int
    completed: int
    dropped: int
    rejected: int
    unfinished: int
    completed_by_class: dict[str, float]
    """User class → share of its requests completed."""
    sla_attainment: dict[str, float]
    """Tier → share of its arrived requests completed within the SLA."""
    wait: dict[str, float]
    first_token: dict[str, float]
    fairness: float
    """Jain's index over users of the share of their tokens completed."""
    forced_preemptions: int
    bytes_swapped: int
    work_completed: int
    work_bound: float
    ticks: int
    seconds: float
    crashed: str
    rewards: dict[str, float]
    """Weighted reward by term; their sum is the return."""

    @property
    def total_reward(self) -> float:
        return sum(self.rewards.values())

    def to_json(self) -> dict:
        """The report as JSON-able values, None for what is NaN."""
        return finite(asdict(self) | {"total_reward": self.total_reward})


def report(state: State) -> Report:
    """What the episode has come to so far; requests that have yet to arrive when it crashed count as failed."""
    load, rows, book = state.columns.traffic, state.columns.rows, state.columns.book
    done = (rows[:, STATUS] == FINISHED) & (rows[:, ENDED] <= book[CLOCK, 1])
    work = load[:, PROMPT] + load[:, OUTPUT]
    completed, bound = int(work[done].sum()), fluid_bound(state.columns)
    parts = (
        completed / bound if bound else 1.0,
        latency_efficiency(load, rows, done),
        cache_residency(load, rows),
    )
    weights = SCORE_WEIGHTS.get(state.scenario.task, SCORE_WEIGHTS["hard"])
    score = sum(weight * part for weight, part in zip(weights, parts, strict=True))
    units = book[TERMS : TERMS + N_TERMS, 0].astype(float)
    units[-1] /= state.load.tick_us
    admitted, status = rows[:, FOUND] >= 0, rows[:, STATUS]
    within = done & (rows[:, WAITED] <= state.columns.settings[SLA_FREE + load[:, VIP]])
    return Report(
        task=state.scenario.task,
        seed=state.seed,
        score=float(EDGE + (1 - 2 * EDGE) * score),
        throughput=float(parts[0]),
        latency_efficiency=parts[1],
        cache_residency=parts[2],
        arrived=len(load),
        completed=int(done.sum()),
        dropped=int((status == DROPPED).sum()),
        rejected=int((status == REJECTED).sum()),
        unfinished=len(load) - int((done | (status == DROPPED) | (status == REJECTED)).sum()),
        completed_by_class=shares(done, load[:, POWER], ("chatter", "power")),
        sla_attainment=shares(within, load[:, VIP], ("free", "vip")),
        wait=percentiles(rows[admitted, WAITED] / state.load.tick_us),
        first_token=percentiles((rows[:, FIRST] - load[:, ARRIVAL])[rows[:, FIRST] > 0] / state.load.tick_us),
        fairness=jain(per_user(load, work * done) / per_user(load, work)),
        forced_preemptions=int(units[FORCED]),
        bytes_swapped=int(units[SWAPPED]) * int(state.columns.settings[BLOCK_BYTES]),
        work_completed=completed,
        work_bound=float(bound),
        ticks=int(book[TICK, 0]),
        seconds=state.seconds,
        crashed=state.crashed,
        rewards={
            name: weight * float(unit)
            for (name, weight), unit in zip(TERM_WEIGHTS.items(), units, strict=True)
        },
    )


def latency_efficiency(load: np.ndarray, rows: np.ndarray, done: np.ndarray) -> float:
    """Mean over arrived of service over service, waits and stalls; 1 if nobody arrived."""
    if not len(load):
        return 1.0
    stayed = np.maximum(rows[done, ENDED] - load[done, ARRIVAL], 1)
    return float((rows[done, SERVED] / stayed).sum() / len(load))


def cache_residency(load: np.ndarray, rows: np.ndarray) -> float:
    """Share of returning users' history found in a cache when they were first admitted."""
    asked = int(load[:, HISTORY].sum())
    return float(np.maximum(rows[:, FOUND], 0).sum() / asked) if asked else 1.0


def shares(hit: np.ndarray, kind: np.ndarray, names: tuple[str, str]) -> dict[str, float]:
    """Name of a class → share of its members that `hit`; NaN for an empty class."""
    return {
        name: float(hit[kind == k].mean()) if np.any(kind == k) else float("nan")
        for k, name in enumerate(names)
    }


def percentiles(values: np.ndarray) -> dict[str, float]:
    """p50, p95 and p99."""
    found = np.percentile(values, (50, 95, 99)) if len(values) else (float("nan"),) * 3
    return {name: float(value) for name, value in zip(("p50", "p95", "p99"), found, strict=True)}


def per_user(load: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Sums of `tokens` over the turns of each user, by the row of his first turn."""
    root = np.arange(len(load))
    for row, parent in enumerate(load[:, PARENT]):
        if parent >= 0:
            root[row] = root[parent]
    sums = np.bincount(root, weights=tokens, minlength=len(load))
    return sums[root == np.arange(len(load))]


def jain(values: np.ndarray) -> float:
    """(sum x)^2 / (n sum x^2): 1 if all have the same, 1/n if one has everything.

    Source: Jain, Chiu, Hawe, DEC TR-301, 1984.
    """
    squares = float((values**2).sum())
    return float(values.sum() ** 2 / (len(values) * squares)) if squares else 1.0

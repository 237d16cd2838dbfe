"""Rewards by name, and what an episode comes to, over all requests that arrived."""

from dataclasses import asdict, dataclass, fields

import numpy as np

from kv_cache_rl.files import finite
from kv_cache_rl.sim.serving.bound import fluid_bound
from kv_cache_rl.sim.serving.columns import DROPPED, FINISHED, NOW, REJECTED, TERMS, Columns
from kv_cache_rl.sim.serving.state import State

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
"""Term → weight of one unit (`columns.TERMS`); memory pressure counts by the nominal tick."""
WEIGHTS = tuple(TERM_WEIGHTS[name] for name in TERMS.names or ())
PRESSURE = (TERMS.names or ()).index("memory_pressure")
"""The one term that is weighted per nominal tick."""

SCORE_WEIGHTS = {"easy": (0.80, 0.20, 0.00), "medium": (0.60, 0.35, 0.05), "hard": (0.60, 0.35, 0.05)}
"""Task → weights of throughput, latency efficiency and cache residency; tasks of your own score as `hard`
does.
"""
EDGE = 1e-4
"""Scores lie this far inside 0 and 1."""


@dataclass(frozen=True, slots=True)
class Report:
    """What an episode came to.

    Waits and times to first token in nominal ticks; NaN where no request was served.
    """

    task: str
    seed: int
    score: float
    throughput: float
    """Completed prompt and output tokens over the fluid bound's; NaN where that is 0, as the episode is too
    short for any request. The score counts it as 1 then.
    """
    latency_efficiency: float
    """Mean over all arrived requests: time in which it advanced over time since arrival; 0 if it never
    finished.
    """
    cache_residency: float
    """History tokens of returning users found on GPU or CPU, over all they brought; 1 if none returned."""
    arrived: int
    completed: int
    dropped: int
    rejected: int
    unfinished: int
    completed_by_class: dict[str, float]
    """User class → share of its requests completed."""
    sla_attainment: dict[str, float]
    """User class → share of its arrived requests completed within the SLA."""
    wait: dict[str, float]
    first_token: dict[str, float]
    fairness: float
    """Jain's index over users of the share of their tokens completed."""
    forced_preemptions: int
    bytes_swapped: int
    work_completed: int
    work_bound: float
    ticks: int
    """Iterations of the engine, which are shorter than a nominal tick where it has less to do."""
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


METRICS = tuple(one.name for one in fields(Report) if one.name not in ("task", "seed"))
"""Names of what a report holds."""


def report(state: State) -> Report:
    """The episode's outcome so far; requests that had yet to arrive when it crashed count as failed."""
    c, tick_us = state.columns, state.load.tick_us
    requests, rows, book = c.requests, c.rows, c.book
    done, work, bound = completed(c), requests["prompt"] + requests["output"], fluid_bound(c)
    throughput, latency, residency = parts = parts_of(c, bound)
    units = book["units"][NOW].astype(float)
    units[PRESSURE] /= tick_us
    rewards = {
        name: TERM_WEIGHTS[name] * float(unit) for name, unit in zip(TERMS.names or (), units, strict=True)
    }
    status, first = rows["status"], rows["first"]
    failed = (status == DROPPED) | (status == REJECTED)
    waited = rows["waited"][rows["found"] >= 0]
    return Report(
        task=state.scenario.task,
        seed=state.seed,
        score=float(EDGE + (1 - 2 * EDGE) * weighed(state.scenario.task, parts)),
        throughput=throughput if bound else float("nan"),
        latency_efficiency=latency,
        cache_residency=residency,
        arrived=len(requests),
        completed=int(done.sum()),
        dropped=int((status == DROPPED).sum()),
        rejected=int((status == REJECTED).sum()),
        unfinished=len(requests) - int((done | failed).sum()),
        completed_by_class=shares(done, requests["power"], ("chatter", "power")),
        sla_attainment=shares(completed_in_sla(c), requests["vip"], ("free", "vip")),
        wait=percentiles(waited / tick_us),
        first_token=percentiles((first - requests["arrival"])[first > 0] / tick_us),
        fairness=jain(per_user(requests["parent"], work * done) / per_user(requests["parent"], work)),
        forced_preemptions=int(c.terms["forced_preemption"]),
        bytes_swapped=int(c.terms["swap_traffic"]) * int(c.settings["block_bytes"]),
        work_completed=int(work[done].sum()),
        work_bound=float(bound),
        ticks=int(book["ticks"]),
        seconds=state.seconds,
        crashed=state.crashed,
        rewards=rewards,
    )


def completed(c: Columns) -> np.ndarray:
    """Which requests were completed before the episode's end, bool ``[R]``."""
    return (c.rows["status"] == FINISHED) & (c.rows["ended"] <= c.book["end_us"])


def completed_in_sla(c: Columns) -> np.ndarray:
    """Which of them had waited no longer than their class tolerates, bool ``[R]``."""
    return completed(c) & (c.rows["waited"] <= c.settings["classes"]["sla_us"][c.requests["vip"]])


def parts_of(c: Columns, bound: float) -> tuple[float, float, float]:
    """Throughput, latency efficiency, cache residency: the parts of the score; `bound` is `fluid_bound`."""
    done = completed(c)
    work = int((c.requests["prompt"] + c.requests["output"])[done].sum())
    return float(work / bound) if bound else 1.0, latency_efficiency(c, done), cache_residency(c)


def weighed(task: str, parts: tuple[float, float, float]) -> float:
    """The score before its edges."""
    weights = SCORE_WEIGHTS.get(task, SCORE_WEIGHTS["hard"])
    return sum(weight * part for weight, part in zip(weights, parts, strict=True))


def latency_efficiency(c: Columns, done: np.ndarray) -> float:
    """Mean over arrived of service over service, waits and stalls; 1 if no request arrived."""
    if not len(c.rows):
        return 1.0
    stayed = np.maximum(c.rows["ended"][done] - c.requests["arrival"][done], 1)
    return float((c.rows["served"][done] / stayed).sum() / len(c.rows))


def cache_residency(c: Columns) -> float:
    """Share of returning users' history found in a cache when they were first admitted."""
    asked = int(c.requests["history"].sum())
    return float(np.maximum(c.rows["found"], 0).sum() / asked) if asked else 1.0


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


def per_user(parents: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Sums of `tokens` over the turns of each user, by the row of their first turn."""
    root = np.arange(len(parents))
    for row, parent in enumerate(parents):
        if parent >= 0:
            root[row] = root[parent]
    sums = np.bincount(root, weights=tokens, minlength=len(parents))
    return sums[root == np.arange(len(parents))]


def jain(values: np.ndarray) -> float:
    """(sum x)^2 / (n sum x^2): 1 if all have the same, 1/n if one has everything.

    Source: Jain, Chiu, Hawe, DEC TR-301, 1984.
    """
    squares = float((values**2).sum())
    return float(values.sum() ** 2 / (len(values) * squares)) if squares else 1.0

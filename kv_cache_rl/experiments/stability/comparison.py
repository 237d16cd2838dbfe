"""The controller as a decision maker, against fixed thresholds, on bursty traffic: what users miss and what
is lost.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kv_cache_rl.core.numbers import whole_number
from kv_cache_rl.experiments.workers import mapped
from kv_cache_rl.search.serving.rollout import episode
from kv_cache_rl.sim.serving.score import completed_in_sla, report
from kv_cache_rl.sim.serving.seeds import SEEDS
from kv_cache_rl.sim.serving.spec import task
from kv_cache_rl.theory.errors import StabilityError

CONTROLLER = "stability"
THRESHOLDS = ("watermark_80", "watermark_90", "watermark_95", "lru")
"""What it is compared with: fixed marks that free, admit and reject by the same rules, and `lru`, which
does none of that ahead.
"""
TASK = "hard"


@dataclass(frozen=True, slots=True)
class Episode:
    """What an agent's users missed in one episode; shares of all requests that arrived."""

    agent: str
    seed: int
    sla_misses: float
    """Completed too late, or not at all."""
    failures: float
    """Dropped, rejected or unfinished."""
    tokens_lost: int
    """KV that was computed and is lost: history not found (or not asked for, where the request was rejected),
    and that of forced preemptions.
    """
    forced_preemptions: int
    score: float


@dataclass(frozen=True, slots=True)
class Match:
    """One agent on one episode."""

    agent: str
    task: str
    seed: int


def play_match(match: Match) -> Episode:
    """The episode of a match."""
    state = episode(task(match.task), match.seed, match.agent)
    found, c = report(state), state.columns
    missing = int((c.requests["history"] - np.maximum(c.rows["found"], 0)).sum())
    return Episode(
        agent=match.agent,
        seed=match.seed,
        sla_misses=1 - int(completed_in_sla(c).sum()) / max(found.arrived, 1),
        failures=(found.dropped + found.rejected + found.unfinished) / max(found.arrived, 1),
        tokens_lost=missing + int(c.book["tokens_preempted"]),
        forced_preemptions=found.forced_preemptions,
        score=found.score,
    )


def compare(
    seeds: int = 20,
    agents: Sequence[str] = (CONTROLLER, *THRESHOLDS),
    name: str = TASK,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[Episode]]:
    """Episodes by agent, the same seeds for each, in their order.

    Raises:
        StabilityError: there are not so many test seeds from that one on.
    """
    whole_number("seed", seed, 0, len(SEEDS["test"]) - 1, StabilityError)
    whole_number("seeds", seeds, 1, len(SEEDS["test"]) - seed, StabilityError)
    matches = [Match(agent, name, k) for agent in agents for k in SEEDS["test"][seed : seed + seeds]]
    episodes = mapped(play_match, matches, workers, lambda done: progress(done, len(matches)))
    return {agent: episodes[at * seeds : (at + 1) * seeds] for at, agent in enumerate(agents)}

"""Tuning: the constants of the weighing, optimised by an evolution strategy.

The search moves the logarithm of each positive constant, and the constants that may be negative
themselves. What is played has six digits."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kv_cache_rl.experiments.eviction.separable import Separable
from kv_cache_rl.experiments.eviction.training import Plan, School, school, train
from kv_cache_rl.experiments.journal import Journal
from kv_cache_rl.search.eviction.proposals import new_log
from kv_cache_rl.search.eviction.rollout import play_tuned
from kv_cache_rl.sim.eviction.actions import ALL_VERBS
from kv_cache_rl.sim.eviction.columns import constants
from kv_cache_rl.sim.eviction.constants import LABELS, SIGNED, START
from kv_cache_rl.sim.eviction.spec import Scenario

DIGITS = 6
LEAST, MOST = 1e-5, 1e4
"""Bounds of a positive constant."""
SCALE = np.where(np.array(LABELS) == "must", 300.0, 1.0)
"""A step of the constants that may be negative."""


@dataclass(frozen=True, slots=True)
class Tuning(Plan):
    """How constants are tuned."""

    generations: int = 120
    population: int = 48
    """Twice the usual one: with few, where a search ends depends on its seed."""
    allowed: int = ALL_VERBS
    """Bit set of verbs."""
    first_only: bool = False
    """Whether it acts in the first window alone."""


def encoded(weights: np.ndarray) -> np.ndarray:
    """Constants as the search moves them."""
    logs = [math.log(min(max(value, LEAST), MOST)) for value in weights.tolist()]
    return np.where(SIGNED, weights / SCALE, logs)


def decoded(x: np.ndarray) -> np.ndarray:
    """The constants that a point of the search stands for."""
    low, high = math.log(LEAST), math.log(MOST)
    values = [
        value * scale if signed else math.exp(min(max(value, low), high))
        for value, scale, signed in zip(x.tolist(), SCALE.tolist(), SIGNED.tolist(), strict=True)
    ]
    return np.array([float(f"{value:.{DIGITS}g}") for value in values])


def player(plan: Tuning) -> Callable[[np.ndarray, np.ndarray, np.ndarray], float]:
    """Plays constants with the verbs and the windows of a plan."""

    def play(scn: np.ndarray, live: np.ndarray, weights: np.ndarray) -> float:
        steps = int(constants(scn).steps)
        return play_tuned(scn, live, weights, plan.allowed, plan.first_only, 0, *new_log(steps))

    return play


def tuned_in(
    found: School,
    plan: Tuning = Tuning(),
    start: np.ndarray = START,
    journal: Journal | None = None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[np.ndarray, list[dict]]:
    """Constants tuned on the scenarios of a school, and the curve, as `training.train` returns them.

    Raises:
        MissingExtra: cma is not installed.
    """
    search = Separable(encoded(start), decoded, plan.sigma, plan.population, plan.seed)
    return train(search, player(plan), found, plan, journal, tell)


def tune(
    scenarios: Sequence[Scenario],
    generations: int = 60,
    seed: int = 0,
    allowed: int = ALL_VERBS,
    start: np.ndarray = START,
    first_only: bool = False,
) -> tuple[np.ndarray, list[dict]]:
    """Constants tuned on scenarios with their references, for measurements that keep no files."""
    plan = Tuning(generations, seed=seed, allowed=allowed, first_only=first_only)
    return tuned_in(school(scenarios), plan, start)

"""Evolving: the network of `learned`, trained by an evolution strategy with mirrored candidates.

    for each generation:
        draw noise; the candidates are mean + sigma * noise and mean - sigma * noise
        weigh the noise by the ranks of their scores, and move the mean along it (Adam)

Every weight is counted in its usual size (`network.scales`). Sums are made one by one in a fixed order,
and candidates hold what a float32 holds, so that a training is the same on every machine.

Source: Salimans et al., "Evolution strategies as a scalable alternative to reinforcement learning", 2017
(mirrored candidates, ranks); Kingma, Ba, "Adam", 2015."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kv_cache_rl.experiments.eviction.training import Budget, School, train
from kv_cache_rl.experiments.journal import Journal
from kv_cache_rl.search.eviction.proposals import new_log
from kv_cache_rl.search.eviction.rollout import play_learned
from kv_cache_rl.sim.eviction.columns import constants
from kv_cache_rl.sim.eviction.network import SIZE, rounded, scales, untrained

FIRST, SECOND = 0.9, 0.98
"""Decay of Adam's moments."""


@dataclass(frozen=True, slots=True)
class Evolving:
    """How a network is trained; the committed weights say the same of themselves."""

    generations: int = 200
    pairs: int = 24
    """Mirrored pairs of candidates."""
    episodes: int = 180
    """Scenarios that each of a generation's candidates plays."""
    seed: int = 0
    sigma: float = 0.05
    """Size of the noise, in usual weights."""
    step: float = 0.02
    """Size of a step, in usual weights; falls evenly to a tenth."""
    look_every: int = 10


class Evolution:
    """The strategy, as a `training.Search`."""

    def __init__(self, start: np.ndarray, plan: Evolving) -> None:
        self._plan, self._scales, self._mean = plan, scales(), start.copy()
        self._rng = np.random.default_rng([plan.seed, 1])
        self._noise = np.zeros((plan.pairs, SIZE))
        self._first, self._second = np.zeros(SIZE), np.zeros(SIZE)
        self._left = [1.0, 1.0]
        """What of the moments is still zero because they began there."""
        self._generation = 0

    def ask(self) -> np.ndarray:
        self._noise = self._rng.standard_normal(self._noise.shape)
        moved = self._plan.sigma * self._scales * self._noise
        return np.array([rounded(one) for pair in moved for one in (self._mean + pair, self._mean - pair)])

    def tell(self, scores: np.ndarray) -> None:
        worth = ranked(scores)
        slope = np.zeros(SIZE)
        for noise, better, worse in zip(self._noise, worth[::2], worth[1::2], strict=True):
            slope += (better - worse) * noise
        self._first = FIRST * self._first + (1.0 - FIRST) * slope
        self._second = SECOND * self._second + (1.0 - SECOND) * slope * slope
        self._left = [self._left[0] * FIRST, self._left[1] * SECOND]
        first, second = self._first / (1.0 - self._left[0]), self._second / (1.0 - self._left[1])
        step = self._plan.step * (1.0 - 0.9 * self._generation / self._plan.generations)
        self._mean = self._mean + step * self._scales * first / (np.sqrt(second) + 1e-8)
        self._generation += 1

    def mean(self) -> np.ndarray:
        return rounded(self._mean)


def ranked(scores: np.ndarray) -> np.ndarray:
    """Ranks of scores as numbers from -0.5 to 0.5, equal ones in their order."""
    worth = np.empty(len(scores))
    worth[np.argsort(scores, kind="stable")] = np.arange(len(scores)) / (len(scores) - 1) - 0.5
    return worth


def play(scn: np.ndarray, live: np.ndarray, weights: np.ndarray) -> float:
    """The return of a network's episode."""
    return play_learned(scn, live, weights, *new_log(int(constants(scn).steps)))


def learned_in(
    found: School,
    plan: Evolving,
    start: np.ndarray,
    journal: Journal | None = None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[np.ndarray, list[dict]]:
    """A network trained on the scenarios of a school, from these constants on, and the curve, as
    `training.train` returns them."""
    budget = Budget(plan.generations, plan.look_every, plan.episodes)
    search = Evolution(untrained(start, plan.seed), plan)
    return train(search, play, found, budget, journal, tell)

"""Evolving: the network of `learned`, trained by the same search as the constants that it begins with.

The search moves the constants and the last layers. The layers before them stay as they were drawn: a
thousand weights move too slowly for the few hundred generations that a training has, and what they say of
an entry is varied enough. A weight is moved in its usual size (`network.scales`), and holds what a
float32 holds."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kv_cache_rl.experiments.eviction.separable import Decode, Separable
from kv_cache_rl.experiments.eviction.training import Plan, School, train
from kv_cache_rl.experiments.eviction.tuning import decoded, encoded
from kv_cache_rl.experiments.journal import Journal
from kv_cache_rl.search.eviction.proposals import new_log
from kv_cache_rl.search.eviction.rollout import play_learned
from kv_cache_rl.sim.eviction.columns import constants
from kv_cache_rl.sim.eviction.constants import LABELS
from kv_cache_rl.sim.eviction.network import LAST, SHAPES, rounded, scales, untrained


@dataclass(frozen=True, slots=True)
class Evolving(Plan):
    """How a network is trained."""

    generations: int = 120
    sigma: float = 0.1
    look_every: int = 10


MOVED = np.concatenate([np.full(int(np.prod(shape)), name in LAST) for name, shape in SHAPES.items()])
"""Which weights of the layers the search moves."""
SCALE = scales()[len(LABELS) :][MOVED]


def decoding(start: np.ndarray) -> Decode:
    """The network that a point of the search stands for: constants, then the layers that move."""

    def decode(x: np.ndarray) -> np.ndarray:
        weights = start.copy()
        weights[: len(LABELS)] = decoded(x[: len(LABELS)])
        weights[len(LABELS) :][MOVED] = x[len(LABELS) :] * SCALE
        return rounded(weights)

    return decode


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
    """A network trained on the scenarios of a school, from constants on, and the curve, as
    `training.train` returns them.

    Raises:
        MissingExtra: cma is not installed.
    """
    first = np.concatenate([encoded(start), np.zeros(MOVED.sum())])
    decode = decoding(untrained(start, plan.seed))
    search = Separable(first, decode, plan.sigma, plan.population, plan.seed)
    return train(search, play, found, plan, journal, tell)

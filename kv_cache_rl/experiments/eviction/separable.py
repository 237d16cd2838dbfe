"""CMA-ES with a diagonal covariance, the search by which deciders are trained.

A full covariance needs an eigenvalue decomposition, which differs between machines in the last digit, and
then in all. Here everything is done number by number, and what is played is rounded, so that a difference
in the last digit changes no game.

Source: Hansen, "The CMA evolution strategy: a tutorial", 2016; Ros, Hansen, "A simple modification in
CMA-ES achieving linear time and space complexity", PPSN 2008."""

from collections.abc import Callable
from importlib import import_module

import numpy as np

from kv_cache_rl.extras import need

Decode = Callable[[np.ndarray], np.ndarray]


class Separable:
    """The strategy, as a `training.Search`.

    Args:
        start: where it begins, in the numbers that it moves.
        decode: the weights that a point of the search stands for, rounded.
    """

    def __init__(self, start: np.ndarray, decode: Decode, sigma: float, population: int, seed: int) -> None:
        need("training", "cma")
        rng = np.random.default_rng(seed)
        options = {
            "CMA_diagonal": True,
            "popsize": population,
            "randn": lambda *shape: rng.standard_normal(shape),
            "seed": np.nan,  # it would seed numpy's global generator
            "verbose": -9,
        }
        self._strategy = import_module("cma").CMAEvolutionStrategy(start, sigma, options)
        self._decode = decode
        self._asked: list = []

    def ask(self) -> np.ndarray:
        self._asked = self._strategy.ask()
        return np.array([self._decode(x) for x in self._asked])

    def tell(self, scores: np.ndarray) -> None:
        self._strategy.tell(self._asked, [-score for score in scores.tolist()])

    def mean(self) -> np.ndarray:
        return self._decode(self._strategy.mean)

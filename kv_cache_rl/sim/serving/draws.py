"""Random numbers that belong to a user or to one of their turns, not to an order of drawing.

A key is a hash of the seed and a path (user 7, turn 2 of it); a draw is a hash of the key and of what is
drawn. So the numbers of a user do not depend on how many others there are, and need no order of drawing.
"""

import functools
import math
import operator

import numpy as np

from kv_cache_rl.core.draws import WEYL, mixed
from kv_cache_rl.sim.serving.spec import ServingError

SEEDS = 1 << 64

WORLD, USERS, REFERENCE = 0, 1, 2
"""Branches of a seed's root: what concerns all, the users, the sample that the theory is fed with."""
GAP, IS_VIP, IS_POWER = 0, 1, 2
"""Draws of a user."""


def root(seed: int) -> np.ndarray:
    """The key ``[1]`` of everything that comes from this seed.

    Raises:
        ServingError: it is no whole number from 0 to 2**64 - 1.
    """
    try:
        number = operator.index(seed)
    except TypeError:
        raise ServingError(f"seed is {seed!r}; give a whole number from 0 to 2**64 - 1") from None
    if isinstance(seed, bool) or not 0 <= number < SEEDS:
        raise ServingError(f"seed is {seed!r}; give a whole number from 0 to 2**64 - 1")
    return mixed(np.array([number], dtype=np.uint64) + WEYL)


def branch(keys: np.ndarray, number: int | np.ndarray) -> np.ndarray:
    """The keys of child `number` (from 0) of each key."""
    return mixed(keys + (np.asarray(number, dtype=np.uint64).reshape(-1) + np.uint64(1)) * WEYL)


def uniform(keys: np.ndarray, number: int | np.ndarray) -> np.ndarray:
    """Draw `number` of each key: float64 strictly between 0 and 1, 52 bits."""
    return ((branch(keys, number) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def exponential(keys: np.ndarray, number: int | np.ndarray) -> np.ndarray:
    """The same as an exponential of mean 1."""
    return -np.log(uniform(keys, number))


@functools.lru_cache(maxsize=64)
def length_steps(mean: float, deviation: float) -> np.ndarray:
    """Where the distribution function of round(max(1, N(mean, deviation))) steps:

    P(length <= 1), P(length <= 2), ...
    """
    most = math.ceil(mean + 9 * deviation)
    return np.array(
        [math.erfc((mean - n - 0.5) / (deviation * math.sqrt(2))) / 2 for n in range(1, most + 1)]
    )


def lengths(shares: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    """Whole tokens N(mean, deviation), at least 1, by inversion at `shares` (uniform draws); int64."""
    return np.searchsorted(length_steps(mean, deviation), shares, side="left") + 1

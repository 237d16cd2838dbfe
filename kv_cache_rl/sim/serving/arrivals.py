"""When users come: a Poisson stream whose rate moves over the episode, by inversion of the cumulative rate.

Patterns are periodic over the episode and turned by a phase of the seed, so that what begins in one episode
and ends in the next can be folded back (`generate`) and their mean is exact."""

from collections.abc import Callable

import numpy as np

from kv_cache_rl.sim.serving.draws import exponential, uniform
from kv_cache_rl.sim.serving.spec import Scenario, ServingError

CELLS = 4_096
"""Steps of a load curve over an episode."""
ONE = 2.0**32
"""Rates and gaps are summed as whole numbers of this unit: the sums are exact, in any order."""

DAYS, FAST = 1, 7
"""Periods of the two waves in an episode: odd numbers, so that their peaks and their troughs meet."""
DAY_SHARE = 0.65
SPIKES = 4
SPIKE_HOLD, SPIKE_DECAY = 0.01, 0.01
"""How long a spike stays at its peak, and the constant of its decay, as shares of the episode."""
SWELL = 0.3
"""Height of the wave under the spikes, relative to its mean, where the peak leaves room for it."""
PHASE = 0
"""Number of the phase's draw; spikes use those after it."""


def load_curve(scenario: Scenario, world: np.ndarray) -> np.ndarray:
    """Load rho over the episode in equal steps, float64 ``[CELLS]``; its mean is `rho`, its maximum
    `rho_peak` (constant: rho).

    `world` is the key whose draws set the phase and the instants of spikes.

    Raises:
        ServingError: no such pattern has this mean and this peak.
    """
    return CURVES[scenario.pattern](scenario.rho, scenario.rho_peak, world)


def constant(rho: float, peak: float, world: np.ndarray) -> np.ndarray:
    """The same load throughout."""
    return np.full(CELLS, rho)


def waves(rho: float, peak: float, world: np.ndarray) -> np.ndarray:
    """A day and night, and a faster wave on it, between `peak` and as far below the mean."""
    if peak > 2 * rho:
        raise ServingError(
            f"waves of mean load {rho:g} cannot reach {peak:g}: at most twice the mean; "
            "lower rho_peak, or take pattern 'spikes'"
        )
    return rho + (peak - rho) * _wave(world)


def spikes(rho: float, peak: float, world: np.ndarray) -> np.ndarray:
    """Sudden peaks, one in each quarter, that decay onto a wave; the wave's height makes up for them."""
    distance = np.arange(CELLS) / CELLS
    spike = np.zeros(CELLS)
    for at in range(SPIKES):
        instant = (at + uniform(world, PHASE + 1 + at)) / SPIKES
        since = (distance - np.floor(instant * CELLS) / CELLS) % 1.0
        spike = np.maximum(spike, np.exp(-np.maximum(since - SPIKE_HOLD, 0.0) / SPIKE_DECAY))
    swell = min(SWELL, (peak / rho - 1) / 2)
    beneath = (1 + swell * _wave(world)) * (1 - spike)
    height = (rho - peak * spike.mean()) / beneath.mean()
    if height < 0:
        raise ServingError(
            f"spikes of load {peak:g} alone exceed a mean load of {rho:g}; "
            f"lower rho_peak to {rho / spike.mean():.3g} or less, or raise rho"
        )
    return height * beneath + peak * spike


def _wave(world: np.ndarray) -> np.ndarray:
    turn = 2 * np.pi * np.arange(CELLS) / CELLS
    wave = -DAY_SHARE * np.cos(DAYS * turn) - (1 - DAY_SHARE) * np.cos(FAST * turn)
    return np.roll(wave, int(uniform(world, PHASE)[0] * CELLS))


def gaps(keys: np.ndarray, number: int) -> np.ndarray:
    """Unit-exponential gaps in front of each user, in units of 1 / ONE; int64."""
    return np.rint(exponential(keys, number) * ONE).astype(np.int64)


def instants(passed: np.ndarray, expected: float, curve: np.ndarray, end: int) -> np.ndarray:
    """When `passed` users (int64, in 1 / ONE) of the `expected` in an episode have come, in whole units of
    `end`, before it.
    """
    cumulated = np.concatenate([[0], np.cumsum(np.rint(curve * ONE).astype(np.int64))])
    share = np.interp(passed / (ONE * expected) * cumulated[-1], cumulated, np.arange(CELLS + 1) / CELLS)
    return np.minimum((share * end).astype(np.int64), end - 1)


CURVES: dict[str, Callable[[float, float, np.ndarray], np.ndarray]] = {
    "constant": constant,
    "waves": waves,
    "spikes": spikes,
}

"""A number with its interval, and what makes one: Student's t, the bootstrap over clusters, order statistics.

The t interval is for means over independent scenarios or seeds, the bootstrap for rates over sessions of
which many look alike, order statistics for a median of whatever distribution."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kv_cache_rl.core.numbers import whole_number

LEVEL = 0.95
T_INTERVAL = "95 % t interval"
BOOTSTRAP_INTERVAL = "95 % percentile bootstrap over clusters of sessions, paired"
"""Source: Efron, Tibshirani, "An introduction to the bootstrap", 1993, chapter 13."""
RESAMPLES = 2000

Z_975 = 1.959963984540054
"""The normal distribution's 97.5 % quantile."""

T_975 = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)
"""Student's t, 97.5 % quantile, for 1 to 30 degrees of freedom.

Source: NIST/SEMATECH e-Handbook, table 1.3.6.7.2.
"""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over `n` scenarios, seeds or clusters with its 95 % interval; None below two of them."""

    n: int
    mean: float
    low: float | None
    high: float | None

    @property
    def half_width(self) -> float | None:
        return None if self.high is None else self.high - self.mean

    def to_json(self) -> dict:
        return {"n": self.n, "mean": self.mean, "low": self.low, "high": self.high}


def t_quantile(degrees: int) -> float:
    """Student's t, 97.5 % quantile: the table, beyond it the expansion around the normal quantile.

    Source: Abramowitz and Stegun 26.7.5, first two terms.
    """
    if degrees <= len(T_975):
        return T_975[degrees - 1]
    first = (Z_975**3 + Z_975) / 4
    second = (5 * Z_975**5 + 16 * Z_975**3 + 3 * Z_975) / 96
    return Z_975 + first / degrees + second / degrees**2


def mean_interval(values: Sequence[float]) -> Interval | None:
    """The mean and its 95 % t interval, or None where there are no values.

    >>> mean_interval([1.0, 2.0, 3.0]).mean
    2.0
    """
    n = len(values)
    if n == 0:
        return None
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(1, mean, None, None)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = t_quantile(n - 1) * math.sqrt(variance / n)
    return Interval(n, mean, mean - half, mean + half)


def paired_difference(ours: dict[str, float], theirs: dict[str, float]) -> Interval | None:
    """The mean of ours minus theirs over the scenarios both have, with its 95 % t interval."""
    return mean_interval([ours[key] - theirs[key] for key in ours if key in theirs])


def draws(clusters: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each cluster is in each resample, int64 [resamples, clusters]; the same for whatever is
    compared.
    """
    whole_number("seed", seed, 0)
    return np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)


def totals(clusters: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sums of `values` [sequences] by cluster, in order of the clusters' numbers."""
    _, index = np.unique(clusters, return_inverse=True)
    return np.bincount(index.reshape(-1), values)


def resampled_rate(
    weights: Sequence[np.ndarray], hits: Sequence[np.ndarray], accesses: Sequence[np.ndarray]
) -> Interval:
    """Mean over the splits of hits / accesses (each [clusters] of a split), with its interval."""
    return _percentiles(_ratios(None, hits, accesses), _ratios(weights, hits, accesses), weights)


def resampled_difference(
    weights: Sequence[np.ndarray],
    ours: Sequence[np.ndarray],
    theirs: Sequence[np.ndarray],
    accesses: Sequence[np.ndarray],
) -> Interval:
    """Our rate minus theirs on the same clusters of the same resamples."""
    value = _ratios(None, ours, accesses) - _ratios(None, theirs, accesses)
    return _percentiles(value, _ratios(weights, ours, accesses) - _ratios(weights, theirs, accesses), weights)


def _ratios(
    weights: Sequence[np.ndarray] | None, hits: Sequence[np.ndarray], accesses: Sequence[np.ndarray]
) -> np.ndarray:
    """[resamples], or [1] for the sample itself."""
    drawn = weights or [np.ones((1, len(h)), np.int64) for h in hits]
    return np.mean(
        [(w @ h) / np.maximum(w @ a, 1) for w, h, a in zip(drawn, hits, accesses, strict=True)], axis=0
    )


def _percentiles(value: np.ndarray, resampled: np.ndarray, weights: Sequence[np.ndarray]) -> Interval:
    clusters = [w.shape[1] for w in weights]
    if min(clusters) < 2:
        return Interval(sum(clusters), float(value[0]), None, None)
    low, high = np.quantile(resampled, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(sum(clusters), float(value[0]), float(low), float(high))


def order_interval(values: Sequence[float]) -> tuple[float, float]:
    """A confidence interval of the median, two order statistics: exact at 95 % or more whatever the
    distribution.

    Below six values there is none so sure, and it is infinite.

    >>> order_interval([1.0, 5.0, 2.0, 4.0, 3.0, 6.0])
    (1.0, 6.0)
    """
    ordered, n = sorted(values), len(values)
    cut, tail = -1, 0.0
    while True:
        tail += math.comb(n, cut + 1) / 2**n
        if 2 * tail > 1 - LEVEL:
            break
        cut += 1
    return (-math.inf, math.inf) if cut < 0 else (ordered[cut], ordered[n - 1 - cut])

"""Means with 95 % intervals, and paired differences, for a handful to thousands of scenarios."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

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

INTERVAL_NAME = "95 % t interval over scenarios"


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over `n` scenarios with its 95 % interval; the interval is None below two values."""

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


def mean_interval(values: Sequence[float]) -> Mean | None:
    """The mean and its 95 % t interval, or None where there are no values.

    >>> mean_interval([1.0, 2.0, 3.0]).mean
    2.0
    """
    n = len(values)
    if n == 0:
        return None
    mean = math.fsum(values) / n
    if n == 1:
        return Mean(1, mean, None, None)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = t_quantile(n - 1) * math.sqrt(variance / n)
    return Mean(n, mean, mean - half, mean + half)


def paired_difference(ours: dict[str, float], theirs: dict[str, float]) -> Mean | None:
    """The mean of ours minus theirs over the scenarios both have, with its 95 % t interval."""
    return mean_interval([ours[key] - theirs[key] for key in ours if key in theirs])

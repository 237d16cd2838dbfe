"""Percentile bootstrap intervals of hit rates and of their differences, sessions of a cluster drawn together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
INTERVAL_NAME = "95 % percentile bootstrap over clusters of sessions, paired"
"""Source: Efron, Tibshirani, "An introduction to the bootstrap", 1993, chapter 13."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its interval; None where there are fewer than two clusters."""

    value: float
    low: float | None
    high: float | None

    def to_json(self) -> dict:
        return {"value": self.value, "low": self.low, "high": self.high}


def draws(clusters: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each cluster is in each resample, int64 [resamples, clusters]; the same for whatever is
    compared.
    """
    return np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)


def totals(clusters: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sums of `values` [sequences] by cluster, in order of the clusters' numbers."""
    _, index = np.unique(clusters, return_inverse=True)
    return np.bincount(index.reshape(-1), values)


def rate(
    weights: Sequence[np.ndarray], hits: Sequence[np.ndarray], accesses: Sequence[np.ndarray]
) -> Interval:
    """Mean over the splits of hits / accesses (each [clusters] of a split), with its interval."""
    return _interval(_ratios(None, hits, accesses), _ratios(weights, hits, accesses), weights)


def difference(
    weights: Sequence[np.ndarray],
    ours: Sequence[np.ndarray],
    theirs: Sequence[np.ndarray],
    accesses: Sequence[np.ndarray],
) -> Interval:
    """Our rate minus theirs on the same clusters of the same resamples."""
    value = _ratios(None, ours, accesses) - _ratios(None, theirs, accesses)
    return _interval(value, _ratios(weights, ours, accesses) - _ratios(weights, theirs, accesses), weights)


def _ratios(
    weights: Sequence[np.ndarray] | None, hits: Sequence[np.ndarray], accesses: Sequence[np.ndarray]
) -> np.ndarray:
    """[resamples], or [1] for the sample itself."""
    drawn = weights or [np.ones((1, len(h)), np.int64) for h in hits]
    return np.mean(
        [(w @ h) / np.maximum(w @ a, 1) for w, h, a in zip(drawn, hits, accesses, strict=True)], axis=0
    )


def _interval(value: np.ndarray, resampled: np.ndarray, weights: Sequence[np.ndarray]) -> Interval:
    if min(w.shape[1] for w in weights) < 2:
        return Interval(float(value[0]), None, None)
    low, high = np.quantile(resampled, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(float(value[0]), float(low), float(high))

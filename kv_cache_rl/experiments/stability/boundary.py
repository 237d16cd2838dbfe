"""Where a queue stops being bounded: slopes of the queue over seeds, a test of their sign, and the rate at
which it turns.

A queue that starts with a long backlog and never empties changes by lambda - mu per second, whatever the
sign: it drains if the service is stable and grows if it is not (fluid limits: Dai, "On positive Harris
recurrence of multiclass queueing networks", Ann. Appl. Probab. 5, 1995). From an empty start only growth can
be seen, and at the boundary itself the queue grows like a random walk; so the boundary is measured from a
backlog, and the sweep from an empty server is there to confirm it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kv_cache_rl.experiments.stability.runs import Run, watch
from kv_cache_rl.experiments.stability.workloads import Workload, arrivals, server
from kv_cache_rl.intervals import order_interval

GROWS, DRAINS, LEVEL_QUEUE = "grows", "drains", "level"
BACKLOG = 0.25
"""Backlog at the start, as a share of the requests that arrive in a run."""
OFFSETS = (0.97, 1.0, 1.03)
"""Rates at which the slope is measured, relative to where the boundary is expected."""


@dataclass(frozen=True, slots=True)
class Slope:
    """How fast a queue changed at one arrival rate, requests per second, by seed."""

    rate: float
    slopes: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.slopes))

    @property
    def interval(self) -> tuple[float, float]:
        return order_interval(self.slopes)

    @property
    def verdict(self) -> str:
        """GROWS or DRAINS if the interval lies on one side of 0, else LEVEL_QUEUE."""
        low, high = self.interval
        return GROWS if low > 0 else DRAINS if high < 0 else LEVEL_QUEUE


@dataclass(frozen=True, slots=True)
class Boundary:
    """The arrival rate per second at which the queue turns from draining to growing, with its interval over
    seeds.
    """

    rate: float
    low: float
    high: float
    slopes: tuple[Slope, ...]


def boundary_of(slopes: Sequence[Slope]) -> Boundary:
    """The root of the line through each seed's slopes, and the median of these roots."""
    rates = [slope.rate for slope in slopes]
    roots = []
    for seed in zip(*(slope.slopes for slope in slopes), strict=True):
        rise, at_zero = np.polyfit(rates, seed, 1)
        roots.append(float(-at_zero / rise))
    return Boundary(float(np.median(roots)), *order_interval(roots), tuple(slopes))


def bracket(sweep: Sequence[Slope]) -> tuple[float, float]:
    """Of a sweep from an empty server: the rates between which growth begins, 0 or infinity where it covers
    no such rate.
    """
    ordered = sorted(sweep, key=lambda slope: slope.rate)
    first = len(ordered)
    # From the top: one in forty bounded queues seems to grow by chance.
    while first and ordered[first - 1].verdict == GROWS:
        first -= 1
    return (ordered[first - 1].rate if first else 0.0), (
        ordered[first].rate if first < len(ordered) else math.inf
    )


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One run: a workload at a rate under an admission rule."""

    workload: Workload
    admission: str
    rate: float
    requests: int
    seed: int
    backlog: bool


def run_of(trial: Trial, keep_durations: bool = False) -> Run:
    """The run of a trial."""
    backlog = int(BACKLOG * trial.requests) if trial.backlog else 0
    load = arrivals(trial.workload, trial.rate, trial.requests, trial.seed, backlog)
    return watch(
        server(trial.workload.budget, trial.admission), load, trial.admission, keep_durations=keep_durations
    )


def slope_of(trial: Trial) -> float:
    """Requests per second by which the queue of a trial grows."""
    return run_of(trial).queue_slope(trial.rate if trial.backlog else None)

"""Intervals hold what they promise, and the t quantiles are the distribution's."""

import math
import random

import numpy as np
import pytest

from kv_cache_rl.intervals import Interval, mean_interval, paired_difference, t_quantile


def t_probability_below(x: float, degrees: int) -> float:
    """Student's t distribution function by integrating its density numerically."""
    grid = np.linspace(0, x, 200_001)
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
    density = scale * (1 + grid**2 / degrees) ** (-(degrees + 1) / 2)
    return 0.5 + float(np.trapezoid(density, grid))


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 14, 29, 30, 31, 40, 75, 149, 1000])
def test_the_t_quantile_leaves_a_fortieth_above_it(degrees):
    assert t_probability_below(t_quantile(degrees), degrees) == pytest.approx(0.975, abs=5e-6)


def test_quantiles_fall_towards_the_normal_one():
    quantiles = [t_quantile(degrees) for degrees in range(1, 200)]
    assert quantiles == sorted(quantiles, reverse=True)
    assert t_quantile(10**6) == pytest.approx(1.959964, abs=1e-5)


def test_an_interval_worked_out_by_hand():
    found = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.7764 * math.sqrt(2.5 / 5)
    assert found == Interval(5, 3.0, pytest.approx(3.0 - half), pytest.approx(3.0 + half))


@pytest.mark.parametrize("n", [3, 5, 15, 60])
def test_ninety_five_of_a_hundred_intervals_hold_the_true_mean(n):
    rng = random.Random(n)
    held = 0
    for _ in range(4000):
        found = mean_interval([rng.gauss(0.3, 2.0) for _ in range(n)])
        held += found.low <= 0.3 <= found.high
    assert held / 4000 == pytest.approx(0.95, abs=0.012)


def test_one_value_has_no_interval_and_none_has_no_mean():
    assert mean_interval([0.25]) == Interval(1, 0.25, None, None)
    assert mean_interval([0.25]).half_width is None
    assert mean_interval([]) is None


def test_a_paired_difference_uses_common_scenarios_only_and_ignores_what_they_share():
    rng = random.Random(0)
    hardness = {f"s{k}": rng.gauss(0, 5) for k in range(30)}
    ours = {key: value + 0.2 + rng.gauss(0, 0.05) for key, value in hardness.items()} | {"only ours": 99.0}
    theirs = hardness | {"only theirs": -99.0}
    found = paired_difference(ours, theirs)
    assert found.n == 30
    assert found.low < 0.2 < found.high
    assert found.high - found.low < 0.1
    assert paired_difference({"a": 1.0}, {"b": 1.0}) is None

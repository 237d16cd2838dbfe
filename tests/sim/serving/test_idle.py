"""Running sums over idle caches show what a walk over the caches shows, to the byte."""

import numpy as np
import pytest
from driving import serve, users

from kv_cache_rl.sim.serving import columns as s
from kv_cache_rl.sim.serving.audit import demand_sums
from kv_cache_rl.sim.serving.idle import keep, largest_idle, take_away
from kv_cache_rl.sim.serving.observe import ages, ages_walked, sizes

MOST = 1 << 38
"""Microseconds: a longer episode than any can be."""


def shown(numbers):
    """As the view holds them."""
    return np.array(numbers, np.float32).tobytes()


def idle_since(moments, blocks, now):
    """A server whose Free caches became idle at these microseconds."""
    state = serve(users(*[(0, 30, 9)] * len(moments)))
    c = state.columns
    c.rows["since"], c.rows["blocks"], c.book["clock_us"] = moments, blocks, now
    for row in range(len(moments)):
        keep(c, s.FREE, row)
    return c


def draws():
    """Moments in order: spread, crowded, all the same, two that almost are, and longer than sums can hold."""
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 40, 700):
        for latest in (1_000, 10**7, 10**9, MOST - 10**9):
            for width in (1, 50, 10**6, latest):
                yield (
                    np.sort(latest - rng.integers(0, min(width, latest), n)),
                    latest + rng.integers(0, 10**8),
                )
    yield np.full(9, 12_345), 12_345
    yield np.full(9, 12_345), 10**8
    yield np.array([10**8, 10**8 + 1]), 10**8 + 10**6


def test_sums_show_the_ages_of_a_walk():
    for moments, now in draws():
        c = idle_since(moments, 7, now)
        assert shown(ages(c, s.FREE)) == shown(ages_walked(c, s.FREE)), (moments, now)
        if len(moments) == 40:
            age = (now - moments) / (500 * float(c.settings["tick_us"]))
            expected = np.minimum([age.max(), age.mean(), age.std()], 1.0)
            assert ages(c, s.FREE) == pytest.approx(expected, abs=1e-6)


def test_a_walk_is_rare(monkeypatch):
    rng, walked = np.random.default_rng(1), []
    monkeypatch.setattr("kv_cache_rl.sim.serving.observe.ages_walked", lambda c, vip: walked.append(1))
    look = getattr(ages, "py_func", ages)
    for _ in range(30):
        c = idle_since(np.sort(rng.integers(0, 10**7, 60)), 7, 10**7)
        look(c, s.FREE)
    assert not walked


def test_the_largest_and_the_sums_follow_what_comes_and_goes():
    rng = np.random.default_rng(2)
    c = idle_since(np.arange(60), rng.integers(1, 9, 60), 100)
    for row in rng.permutation(60).tolist():
        assert sizes(c, s.VIP) == (0.0, 0.0, 0.0)
        take_away(c, s.FREE, row)
        if row % 3:
            largest_idle(c, s.FREE)
        demand_sums(c, s.FREE)
    assert largest_idle(c, s.FREE) == -1 and ages(c, s.FREE) == sizes(c, s.FREE) == (0.0, 0.0, 0.0)

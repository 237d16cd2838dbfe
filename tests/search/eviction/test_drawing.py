"""What is drawn in compiled code has the distributions of the generator's process."""

import numpy as np
import pytest

from kv_cache_rl.search.eviction import process as compiled
from kv_cache_rl.sim.eviction import process as p

DRAWS = 4000


def alike(ours, theirs):
    """Whether two samples have the same deciles, as far as their sizes allow (Kolmogorov and Smirnov)."""
    both = np.sort(np.concatenate([ours, theirs]))
    gap = np.abs(
        np.searchsorted(np.sort(ours), both, side="right") / len(ours)
        - np.searchsorted(np.sort(theirs), both, side="right") / len(theirs)
    ).max()
    return gap < 1.95 * (2 / len(ours)) ** 0.5  # one in a thousand


@pytest.mark.parametrize("sub", [False, True])
@pytest.mark.parametrize("user", [False, True])
def test_calls_are_those_of_the_process(sub, user):
    ours, theirs = np.random.default_rng(1), np.random.default_rng(2)
    one = np.array([compiled.next_call(ours, sub, True, user) for _ in range(DRAWS)], float)
    other = np.array([p.next_call(theirs, sub, True, user) for _ in range(DRAWS)], float)
    assert all(alike(one[:, k], other[:, k]) for k in range(5))


@pytest.mark.parametrize("sub", [False, True])
@pytest.mark.parametrize("ended", [False, True])
def test_pauses_are_those_of_the_process(sub, ended):
    ours, theirs = np.random.default_rng(3), np.random.default_rng(4)
    one = [compiled.gap_after(ours, sub, ended) for _ in range(DRAWS)]
    other = [p.gap_after(theirs, sub, ended) for _ in range(DRAWS)]
    assert alike(np.array(one), np.array([np.inf if gap is None else gap for gap in other]))


def test_classes_come_in_the_shares_of_the_process():
    rng = np.random.default_rng(5)
    drawn = np.bincount([compiled.draw_class(rng) for _ in range(DRAWS)], minlength=4) / DRAWS
    assert drawn == pytest.approx(list(p.CLASS_SHARES.values()), abs=0.03)

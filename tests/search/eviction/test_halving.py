"""Sequential halving finds the best, and is not fooled by the highest of many noisy means."""

import numpy as np

from kv_cache_rl.search.eviction.halving import Round, better

ROUNDS = (Round(16, 20), Round(48, 6), Round(192, 2), Round(400, 2))


def judge_of(values, noise, seed):
    """Returns with a noise that all candidates of a future share, and one of their own."""
    rng = np.random.default_rng(seed)

    def judge(candidates, futures):
        shared = 10 * rng.standard_normal((futures, 1))
        own = noise * rng.standard_normal((futures, len(candidates)))
        return shared + own + np.array([values[k] for k in candidates])

    return judge


def test_the_best_is_found_among_many_through_noise():
    values = np.linspace(-1, 0.5, 100)
    found = [better(0, range(1, 100), judge_of(values, 1.0, seed), ROUNDS, 1.0)[0] for seed in range(20)]
    assert np.mean([values[k] for k in found if k is not None]) > 0.35
    assert sum(k is not None for k in found) == 20


def test_where_none_is_better_few_seem_so_and_the_mean_gain_is_honest():
    values = np.zeros(150)
    found = [better(0, range(1, 150), judge_of(values, 1.0, seed), ROUNDS, 2.0)[0] for seed in range(60)]
    assert sum(k is not None for k in found) <= 9, "two candidates at two standard errors: one in twenty"


def test_all_candidates_come_back_best_first():
    values = np.array([0.0, 3, 1, 2, -1])
    best, ranked = better(0, [1, 2, 3, 4], judge_of(values, 0.0, 0), (Round(1, 3), Round(1, 2)), 0.0)
    assert best == 1 and ranked == [1, 3, 2, 4]


def test_no_candidates_and_no_better_ones_leave_the_base():
    assert better(0, [], judge_of(np.zeros(1), 1.0, 0), ROUNDS, 1.0) == (None, [])
    assert better(0, [1], judge_of(np.zeros(2), 0.0, 0), ROUNDS, 1.0)[0] is None

"""Who beats whom: what a sound score has to say (specification section 7). All tasks in full length, on held-out seeds.

`kv-cache-rl serving evaluate --seeds 20` is the same with every agent and the oracle at its full width.
"""

import functools

import numpy as np
import pytest

from kv_cache_rl.agents import AGENTS, CANARIES, agent
from kv_cache_rl.reports.statistics import mean_interval
from kv_cache_rl.search.serving_oracle import solve
from kv_cache_rl.search.serving_rollout import finish
from kv_cache_rl.sim.serving.heuristics import FUNCTIONS, HEURISTICS
from kv_cache_rl.sim.serving.score import report
from kv_cache_rl.sim.serving.seeds import SEEDS
from kv_cache_rl.sim.serving.spec import TASKS, task
from kv_cache_rl.sim.serving.state import new_state

HELD_OUT = SEEDS["test"][:20]
SERVING = [name for name in HEURISTICS if name not in CANARIES]


@functools.cache
def score(name, task_name, seed):
    state, one = new_state(task(task_name), seed), agent(name)
    one.reset(seed)
    finish(state, FUNCTIONS[one.which], one.memory)
    return report(state).score


def lead(ours, theirs, task_name, seeds=HELD_OUT):
    """Mean and interval of the paired differences."""
    return mean_interval([score(ours, task_name, seed) - score(theirs, task_name, seed) for seed in seeds])


@pytest.mark.parametrize("task_name", TASKS)
@pytest.mark.parametrize("canary", CANARIES)
def test_canaries_score_below_lru_on_every_episode(canary, task_name):
    for seed in HELD_OUT[:3]:
        assert score(canary, task_name, seed) < score("lru", task_name, seed)


@pytest.mark.parametrize("task_name", ["medium", "hard"])
def test_stability_beats_lru_with_an_interval_clear_of_nothing(task_name):
    assert lead("stability", "lru", task_name).low > 0


def test_stability_is_no_worse_than_lru_where_the_load_is_easy():
    assert lead("stability", "lru", "easy").low > -0.001


@pytest.mark.parametrize("task_name", TASKS)
def test_the_best_heuristic_is_at_least_as_good_as_lru(task_name):
    means = {name: np.mean([score(name, task_name, seed) for seed in HELD_OUT[:5]]) for name in SERVING}
    assert max(means.values()) >= means["lru"]


@pytest.mark.parametrize("task_name", ["medium", "hard"])
def test_the_learned_table_beats_lru_with_an_interval_clear_of_nothing(task_name):
    assert "qlearning" in AGENTS
    assert lead("qlearning", "lru", task_name).low > 0


@pytest.mark.parametrize("task_name", TASKS)
def test_the_oracle_beats_the_best_heuristic_of_every_episode_and_stays_below_the_bound(task_name):
    gains = []
    for seed in HELD_OUT[:2]:
        plan = solve(task(task_name), seed, segments=3)
        best = max(score(name, task_name, seed) for name in SERVING)
        assert best <= plan.report.score < 1
        gains.append(plan.report.score - best)
    assert max(gains) > 0 or task_name == "easy"


def test_hard_leaves_headroom_below_the_bound_where_easy_leaves_none():
    gap = {name: 1 - np.mean([score("stability", name, seed) for seed in HELD_OUT]) for name in TASKS}
    assert gap["hard"] > 2 * gap["easy"]
    assert gap["hard"] > 0.03

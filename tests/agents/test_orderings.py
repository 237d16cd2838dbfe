"""Who beats whom: what a sound score has to say (specification section 7). Full length, 20 held-out seeds (10
for the oracle, which is slow), 95 % intervals.

`kv-cache-rl serving evaluate --policy all --seeds 20` is the same with the oracle at its full width.
"""

import functools

import numpy as np
import pytest

from kv_cache_rl.agents import CANARIES, agent
from kv_cache_rl.intervals import mean_interval
from kv_cache_rl.search.serving.oracle import solve
from kv_cache_rl.search.serving.rollout import finish
from kv_cache_rl.sim.serving.dynamics import new_state
from kv_cache_rl.sim.serving.heuristics import HEURISTICS
from kv_cache_rl.sim.serving.score import report
from kv_cache_rl.sim.serving.seeds import SEEDS, agent_seed
from kv_cache_rl.sim.serving.spec import TASKS, task

HELD_OUT = SEEDS["test"][:20]
CHOOSING = SEEDS["select"][:10]
SERVING = [name for name in HEURISTICS if name not in CANARIES]
LEARNED, NETWORKS = "qlearning", ("neural", "ppo")


@functools.cache
def score(name, task_name, seed):
    state, one = new_state(task(task_name), seed), agent(name)
    one.reset(agent_seed(seed))
    finish(state, one.which, one.memory)
    return report(state).score


@functools.cache
def best_heuristic(task_name):
    """The name of the one that does best on seeds which are not reported."""
    return max(SERVING, key=lambda name: np.mean([score(name, task_name, seed) for seed in CHOOSING]))


def lead(ours, theirs, task_name):
    """Mean and interval of the paired differences."""
    return mean_interval([score(ours, task_name, seed) - score(theirs, task_name, seed) for seed in HELD_OUT])


def planned(task_name, seed, segments):
    """Score of a narrow oracle: few segments, so that full episodes are affordable here."""
    table = agent(LEARNED)
    return solve(
        task(task_name), seed, segments, workers=1, learned={LEARNED: (table.which, table.start)}
    ).report.score


@pytest.mark.parametrize("task_name", TASKS)
@pytest.mark.parametrize("canary", CANARIES)
def test_canaries_score_below_lru_with_an_interval_clear_of_nothing(canary, task_name):
    assert lead(canary, "lru", task_name).high < 0


@pytest.mark.parametrize("task_name", ["medium", "hard"])
def test_the_best_heuristic_beats_lru_with_an_interval_clear_of_nothing(task_name):
    assert lead(best_heuristic(task_name), "lru", task_name).low > 0, best_heuristic(task_name)


def test_the_best_heuristic_is_not_below_lru_where_the_load_is_easy():
    assert lead(best_heuristic("easy"), "lru", "easy").low >= 0, best_heuristic("easy")


@pytest.mark.parametrize("task_name", ["medium", "hard"])
def test_the_learned_table_beats_lru_with_an_interval_clear_of_nothing(task_name):
    assert lead(LEARNED, "lru", task_name).low > 0


@pytest.mark.parametrize("task_name", ["medium", "hard"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_trained_network_beats_lru_with_an_interval_clear_of_nothing(network, task_name):
    assert lead(network, "lru", task_name).low > 0


@pytest.mark.parametrize("task_name", TASKS)
@pytest.mark.parametrize("rival", ["stability", "watermark_90"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_trained_network_is_at_least_level_with_the_best_rules(network, rival, task_name):
    difference = lead(network, rival, task_name)
    assert difference.mean > -0.0005 and difference.high >= 0


@pytest.mark.parametrize("task_name", ["medium", "hard"])
def test_the_oracle_beats_the_best_of_all_others_with_an_interval_clear_of_nothing_and_leaves_headroom(
    task_name,
):
    seeds = HELD_OUT[:10]
    found = [planned(task_name, seed, segments=3) for seed in seeds]
    for rival in (best_heuristic(task_name), LEARNED):
        gains = [ours - score(rival, task_name, seed) for ours, seed in zip(found, seeds, strict=True)]
        assert min(gains) >= 0, rival
        assert mean_interval(gains).low > 0, rival
    assert mean_interval([1 - one for one in found]).low > 0.03


def test_the_oracle_is_neither_above_nor_below_any_agent_where_the_load_is_easy():
    for seed in HELD_OUT[:5]:
        best = max(score(name, "easy", seed) for name in (*SERVING, LEARNED))
        assert best <= planned("easy", seed, segments=1) < 1


def test_hard_leaves_agents_headroom_below_the_bound_where_easy_leaves_next_to_none():
    gap = {
        name: mean_interval(
            [1 - max(score(who, name, seed) for who in (best_heuristic(name), LEARNED)) for seed in HELD_OUT]
        )
        for name in ("easy", "hard")
    }
    assert gap["hard"].low > 0.03
    assert gap["hard"].low > 2 * gap["easy"].high

"""A serving episode through OpenEnv is the episode of the one environment."""

import numpy as np
import pytest
from kv_cache_serving_openenv import KvCacheServingAction
from kv_cache_serving_openenv.server.environment import KvCacheServingEnvironment

from kv_cache_rl.adapters.openenv.tasks import SERVING, of_serving
from kv_cache_rl.adapters.playing import play
from kv_cache_rl.agents import agent
from kv_cache_rl.agents.chat import Answer, ChatAgent
from kv_cache_rl.agents.chat_text import read_state, state_text
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.search.serving.rollout import steps
from kv_cache_rl.sim.serving.actions import ACTIONS
from kv_cache_rl.sim.serving.dynamics import new_state
from kv_cache_rl.sim.serving.score import report
from kv_cache_rl.sim.serving.seeds import SEEDS, agent_seed

TASK, TICKS = "serving-test-medium-30001", 300


def test_rewards_sum_to_the_return_and_the_score_is_the_worlds():
    environment, lru, total = KvCacheServingEnvironment(), agent("lru"), 0.0
    scenario, seed = of_serving(SERVING.named(TASK), TICKS)
    lru.reset(agent_seed(seed))
    seen = environment.reset(task=TASK, ticks=TICKS)
    while not seen.done:
        number = lru.act(np.array(seen.view, np.float32), np.array(seen.mask, np.int8))
        seen = environment.step(KvCacheServingAction(action=number))
        total += seen.reward
    found = report(play("lru", scenario, seed))
    assert seen.metadata["score"] == found.score and seen.metadata["report"] == found.to_json()
    assert total == pytest.approx(found.total_reward, abs=1e-9)
    assert environment.state.step_count == seen.decisions


def test_names_and_numbers_are_the_same_actions():
    ends = []
    for as_name in (True, False):
        environment = KvCacheServingEnvironment()
        seen = environment.reset(task=TASK, ticks=60)
        while not seen.done:
            number = int(np.flatnonzero(seen.mask)[0])
            seen = environment.step(KvCacheServingAction(action=ACTIONS[number] if as_name else number))
        ends.append(seen)
    assert ends[0] == ends[1]


def test_an_action_is_repeated_as_a_chat_models_call_is():
    """Each reply of the chat agent is one step here."""
    replies = [("admit_vip", 9), ("admit_free", 30), ("do_nothing", 5), ("evict_oldest_free", 100)]
    environment = KvCacheServingEnvironment()
    seen, total = environment.reset(task=TASK, ticks=120), 0.0
    asked = []

    def ask(messages, tools):
        asked.append(replies[len(asked) % len(replies)])
        return Answer((("act", f'{{"action": "{asked[-1][0]}", "repeat": {asked[-1][1]}}}'),))

    scenario, seed = of_serving(SERVING.named(TASK), 120)
    state, chat = new_state(scenario, seed), ChatAgent(ask)
    expected = sum(reward for _, reward in steps(state, chat.act))
    for name, repeat in asked:
        if not seen.done:
            seen = environment.step(KvCacheServingAction(action=name, repeat=repeat))
            total += seen.reward
    assert seen.done and seen.metadata["score"] == report(state).score
    assert total == pytest.approx(expected, abs=1e-9)


def test_the_view_text_is_what_a_chat_model_reads():
    numbers, words = KvCacheServingEnvironment(), KvCacheServingEnvironment()
    first, second = numbers.reset(task=TASK, ticks=50), words.reset(task=TASK, ticks=50, view="text")
    while not first.done:
        view, mask = np.array(first.view, np.float32), np.array(first.mask, np.int8)
        assert second.text == state_text(view, mask) and not second.view and not first.text
        assert (read_state(second.text)[1] == mask).all()
        action = KvCacheServingAction(action=int(np.flatnonzero(mask)[0]), repeat=2)
        first, second = numbers.step(action), words.step(action)
    assert second.done and first.reward == second.reward


def test_the_splits_are_the_seeds_that_are_apart():
    assert {split: len(SERVING.of(split)) for split in SERVING.splits} == {
        split: 3 * len(seeds) for split, seeds in SEEDS.items()
    }
    assert SERVING.task("train", 5).id == "serving-train-hard-10001"
    scenario, seed = of_serving(SERVING.task("test", 1))
    assert (scenario.task, scenario.ticks, seed) == ("medium", 5_000, 30_000)


@pytest.mark.parametrize("ticks", [0, -1, 5_001, 1.5, "9", True])
def test_a_length_that_is_none_is_refused_with_its_range(ticks):
    with pytest.raises(Refused, match=r"ticks is .*; give a whole number from 1 to 5,000"):
        KvCacheServingEnvironment().reset(task=TASK, ticks=ticks)


def test_a_person_can_play_by_choices_alone():
    environment = KvCacheServingEnvironment()
    seen = environment.reset(task=TASK, ticks=60)
    while not seen.done:
        choices = environment.web_actions({})
        assert len({label for label, _ in choices}) == len(choices)
        by_lru = next(action for label, action in choices if "lru" in label)
        seen = environment.step(KvCacheServingAction(**by_lru))
        assert 'sandbox=""' in environment.render_web({})
    scenario, seed = of_serving(SERVING.named(TASK), 60)
    assert seen.metadata["score"] == report(play("lru", scenario, seed)).score
    assert "The episode is over" in environment.render_web({})

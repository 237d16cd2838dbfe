"""Scenarios become tasks: the same ones for the same arguments, with the weights of their profile."""

import asyncio
import json

import pytest
import verifiers.v1 as vf
from conftest import environment
from kv_cache_eviction.task import EvictionData, EvictionTask, NormalizedTask
from kv_cache_eviction.taskset import EvictionTasksetConfig
from pydantic import ValidationError

from kv_cache_rl.sim.eviction import METRICS, REWARDS, SYSTEM_PROMPT, load_scenarios

OWN_ARGUMENTS = [
    "difficulty",
    "num_examples",
    "seed",
    "split",
    "trace",
    "max_calls_per_step",
    "view",
    "history",
    "reward_profile",
]


def tasks(**arguments) -> list[EvictionTask]:
    return list(environment(**arguments).taskset)


def scored(task: EvictionTask, actions: list) -> vf.Trace:
    info = vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key)
    trace = vf.Trace(task=info, agent=vf.AgentInfo(config=vf.AgentConfig()), info={"actions": actions})
    asyncio.run(task.score(trace))
    return trace


def test_arguments_are_flat_all_default_and_those_of_the_original_come_first():
    own = [name for name in EvictionTasksetConfig.model_fields if name not in vf.TasksetConfig.model_fields]
    assert own == OWN_ARGUMENTS
    defaults = EvictionTasksetConfig().model_dump(include=set(OWN_ARGUMENTS))
    assert json.loads(json.dumps(defaults)) == defaults
    assert (defaults["difficulty"], defaults["num_examples"], defaults["seed"]) == ("all", -1, 42)
    assert (defaults["view"], defaults["history"]) == ("brief", "full")


def test_loading_twice_gives_the_same_tasks_and_another_seed_another_order():
    assert [task.data for task in tasks(num_examples=9)] == [task.data for task in tasks(num_examples=9)]
    assert [task.key for task in tasks(num_examples=9)] != [
        task.key for task in tasks(num_examples=9, seed=1)
    ]


def test_a_task_is_its_scenario():
    for task, scenario in zip(
        tasks(num_examples=6, split="train"), load_scenarios("all", "train", 6, 42), strict=True
    ):
        assert task.scenario == scenario
        assert task.key == task.data.id == task.data.name == scenario.id
        assert task.data.system_prompt == SYSTEM_PROMPT
        assert (
            len(task.data.prompt) <= 3600
            and json.loads(task.data.prompt)["episode_remaining"] == scenario.steps
        )


def test_keys_are_unique_and_all_means_all():
    keys = [task.key for task in tasks(num_examples=-1)]
    assert len(keys) == len(set(keys)) == len(load_scenarios())


def test_a_row_survives_the_trace_file():
    [task] = tasks()
    saved = EvictionData.model_validate_json(task.data.model_dump_json())
    assert saved == task.data and EvictionTask(saved).scenario == task.scenario


@pytest.mark.parametrize(
    "arguments",
    [{"difficulty": "insane"}, {"split": "validation"}, {"num_examples": -2}, {"reward_profile": "x"}],
)
def test_an_argument_that_does_not_exist_is_refused_with_the_choices(arguments):
    with pytest.raises(ValidationError, match=r"Input should be"):
        EvictionTasksetConfig(**arguments)


@pytest.mark.parametrize(
    ("argument", "fault"),
    [
        ({"trace": "no-such-file.jsonl"}, r"no-such-file\.jsonl; check the path"),
        ({"num_examples": 0}, "give -1 for all"),
        ({"seed": -1}, "greater than or equal to 0"),
    ],
)
def test_an_argument_that_gives_no_scenario_is_refused_where_it_is_read(argument, fault):
    with pytest.raises(ValidationError, match=fault):
        EvictionTasksetConfig(**argument)


@pytest.mark.parametrize(
    "name", ["claude-code/cc_sessions_rle.jsonl.gz", "mooncake/conversation_trace.jsonl.gz"]
)
def test_a_real_trace_becomes_tasks_that_play(name, real):
    [task] = tasks(trace=str(real(name)), difficulty="hard")
    best = [[list(call) for call in step] for step in task.scenario.best_log]
    assert task.scenario.difficulty == "hard"
    assert scored(task, best).reward == pytest.approx(task.scenario.best, abs=6e-7)
    assert asyncio.run(task.validate(None))


def test_the_profile_picks_the_task_class_and_with_it_the_weights():
    [original] = tasks(reward_profile="original")
    [normalized] = tasks(reward_profile="normalized")
    assert type(original) is EvictionTask and type(normalized) is NormalizedTask
    actions = [[["keep"]]] * 15
    weights = {name: reward.weight for name, reward in scored(original, actions).rewards.items()}
    assert weights == {**REWARDS, "normalized_score": 0.0}
    [reward] = scored(normalized, actions).rewards.items()
    assert reward[0] == "normalized_score" and reward[1].weight == 1.0
    assert reward[1].score == scored(original, actions).rewards["normalized_score"].score


def test_the_row_alone_restores_the_profile_for_a_replay():
    [task] = tasks(reward_profile="normalized")
    assert type(EvictionTask(task.data)) is NormalizedTask
    assert type(task.with_system_prompt("another").with_data(idx=3)) is NormalizedTask


def test_the_reward_is_the_weighted_sum_and_every_metric_is_there():
    [task] = tasks()
    trace = scored(task, [[["keep"]]] * 15)
    assert trace.reward == pytest.approx(
        sum(trace.rewards[name].score * weight for name, weight in REWARDS.items())
    )
    assert set(trace.metrics) == {*METRICS, "unplayed_steps", "cut_replies"}


def test_a_different_action_log_is_a_different_score():
    [task] = tasks(difficulty="hard")
    assert (
        scored(task, [[["keep"]]] * 15).reward
        != scored(task, [[["evict", task.scenario.sessions[0].seq_id]]] * 15).reward
    )
    assert scored(task, [[["evict", "no-such-id"]]] * 15).metrics["invalid_calls"] == 15


def test_validation_fails_where_the_stored_actions_do_not_reach_the_stored_return():
    [task] = tasks()
    assert asyncio.run(task.validate(None))
    lie = task.data.model_copy(
        update={"scenario": {**task.data.scenario, "best": task.scenario.best + 0.001}}
    )
    assert not asyncio.run(EvictionTask(lie).validate(None))


def test_no_method_of_verifiers_scoring_is_shadowed():
    assert EvictionTask.score is NormalizedTask.score is vf.Task.score


def test_with_another_env_the_hooks_stay_and_in_process_they_go():
    [task] = tasks()
    from verifiers.v1.utils.decorators import discover_decorated

    def hooks(task: EvictionTask) -> set[str]:
        return {fn.__name__ for kind in ("intercept", "stop") for fn in discover_decorated(task, kind)}

    assert hooks(task) == {"put_in_answers", "episode_over", "refuse_empty_reply"}
    assert hooks(task.played_in_process()) == {"refuse_empty_reply"}
    assert hooks(task) == {"put_in_answers", "episode_over", "refuse_empty_reply"}

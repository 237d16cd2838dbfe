"""A failed rollout is recorded as one and has no score."""

import asyncio

import pytest
from conftest import environment, episodes
from scripted_model import ERROR_500, HANG, NOT_JSON, calls, says, serving

ONE_TRY = {"id": "kv-cache-eviction", "max_retries": 0}
LONG_S = 8.0
"""So long that a busy machine answers in less, and only a server that hangs does not."""


def failing(turn_of_failure: int, failure: dict):
    return lambda turn, body: failure if turn == turn_of_failure else calls(("keep", {}))


@pytest.mark.parametrize(
    ("failure", "says_so"),
    [
        (ERROR_500, "out of memory"),
        (NOT_JSON, "malformed upstream response"),
        (says(""), "empty reply"),
        ({"role": "assistant", "content": None}, "empty reply"),
    ],
    ids=["500", "malformed JSON", "empty", "nothing"],
)
@pytest.mark.parametrize("turn", [0, 14])
def test_a_server_that_fails_is_an_error_and_no_score(play, failure, says_so, turn):
    trace, _ = play(failing(turn, failure), harness=ONE_TRY)
    assert not trace.ok
    assert says_so in trace.last_error.message
    assert trace.num_turns == turn
    assert trace.rewards == {} and "actions" not in trace.info


def test_a_server_that_hangs_is_an_error_and_no_score(play):
    trace, _ = play(failing(7, HANG), harness=ONE_TRY | {"request_timeout": LONG_S})
    assert not trace.ok and "timed out" in trace.last_error.message
    assert trace.num_turns == 7 and trace.rewards == {}


def test_the_server_is_blamed_and_not_the_task(play):
    for failure in (ERROR_500, NOT_JSON, says("")):
        trace, _ = play(failing(3, failure), harness=ONE_TRY)
        assert trace.last_error.type == "ProviderError" and trace.stop_condition == "provider_error"


def test_other_harnesses_fail_alike(play, null_harness):
    trace, requests = play(failing(2, says("")), harness=null_harness)
    assert not trace.ok and "empty reply" in trace.last_error.message
    assert len(requests) > 3  # it was asked again first
    assert trace.rewards == {}


def test_a_passing_failure_is_tried_again_and_leaves_no_mark(play):
    failed = []

    def script(turn: int, body: dict) -> dict:
        if turn in (2, 5) and turn not in failed:
            failed.append(turn)
            return ERROR_500 if turn == 2 else says("")
        return calls(("keep", {}))

    trace, requests = play(script)
    assert trace.ok and len(requests) == 17
    assert trace.num_turns == len(trace.info["actions"]) == 15


def test_a_rollout_that_runs_out_of_time_has_no_score(play):
    trace, _ = play(failing(4, HANG), agent={"timeout": {"rollout": LONG_S}})
    assert not trace.ok and trace.is_timeout
    assert "after 4 of 15 model calls" in trace.last_error.message and "--resume" in trace.last_error.message
    assert all(reward is None for reward in trace.rewards.values())


def test_a_limit_that_the_user_set_leaves_the_rest_of_the_episode_to_keep(play):
    cut, _ = play(lambda turn, body: calls(("keep", {})), agent={"max_turns": 5})
    whole, _ = play(lambda turn, body: calls(("keep", {})))
    assert cut.ok and cut.is_truncated and len(cut.info["actions"]) == 5
    assert cut.reward == whole.reward


def test_one_failed_rollout_leaves_the_others_alone():
    bad = "a system prompt that breaks the server"
    with serving(
        lambda turn, body: ERROR_500 if body["messages"][0]["content"] == bad else calls(("keep", {}))
    ) as model:
        env = environment(num_examples=3, harness=ONE_TRY)
        tasks = list(env.taskset)
        tasks[1] = tasks[1].with_system_prompt(bad)
        played = episodes(env, model.base_url, tasks)
    assert [episode.ok for episode in played] == [True, False, True]


def test_another_tasksets_rows_are_refused_with_the_remedy():
    import verifiers.v1 as vf

    harness = vf.load_harness(vf.harness_config_type("kv-cache-eviction")(id="kv-cache-eviction"))
    with pytest.raises(
        TypeError, match=r"plays the tasks of kv-cache-eviction only.*--env\.agent\.harness\.id"
    ):
        asyncio.run(harness.launch(None, None, None, "", "", {}, vf.TaskData(prompt="2 + 2?")))

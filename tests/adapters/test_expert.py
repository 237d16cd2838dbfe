"""Expert dialogues are the episodes they come from, as a chat model would have played them."""

import json

import pytest

from kv_cache_rl.adapters.dialogue import observation_texts
from kv_cache_rl.adapters.expert import expert_dialogue, expert_row
from kv_cache_rl.sim.eviction import DECIDERS, SYSTEM_PROMPT, TOOLS, Call, Episode, parse_call, play, replay


def log_of(messages: list[dict]) -> list:
    """The action log read back from the assistant messages."""
    said = [message["tool_calls"] for message in messages if message["role"] == "assistant"]
    return [
        [parse_call(c["function"]["name"], c["function"]["arguments"]).to_log() for c in calls]
        for calls in said
    ]


def test_the_oracles_dialogue_earns_the_oracles_return(scenarios):
    for scenario in scenarios:
        messages = expert_dialogue(scenario, scenario.best_log)
        assert replay(scenario, log_of(messages)).total == scenario.best


@pytest.mark.parametrize("policy", ["weigh_value", "lru", "swap_all"])
def test_a_dialogue_holds_the_observations_that_the_policy_saw(scenarios, policy):
    seen = []
    decide = DECIDERS[policy]()

    def watched(observation: dict) -> list[Call]:
        seen.append(observation)
        return list(decide(observation)) or [Call("keep")]

    episode = play(Episode(scenarios[1]), watched)
    messages = expert_dialogue(scenarios[1], episode.log)
    assert [json.loads(text) for text in observation_texts(messages)] == seen
    assert log_of(messages) == episode.log


def test_every_tool_message_answers_a_call_and_the_last_word_is_the_experts(scenarios):
    messages = expert_dialogue(scenarios[2], scenarios[2].best_log)
    asked = [
        call["id"] for message in messages if message["role"] == "assistant" for call in message["tool_calls"]
    ]
    answered = [message["tool_call_id"] for message in messages if message["role"] == "tool"]
    assert answered == asked[: len(answered)]
    assert len(set(asked)) == len(asked)
    assert messages[0] == {"role": "system", "content": SYSTEM_PROMPT}
    assert [message["role"] for message in messages].count("assistant") == scenarios[2].steps
    assert messages[-1]["role"] == "assistant"


def test_a_step_without_calls_becomes_a_keep_and_unreadable_calls_are_not_taught(scenarios):
    log = [[], [["?", "unknown tool 'fly'"]], *([["keep"]] for _ in range(scenarios[0].steps - 2))]
    assert log_of(expert_dialogue(scenarios[0], log)) == [[["keep"]]] * scenarios[0].steps


def test_a_row_holds_the_tools_as_text(scenarios):
    row = expert_row(scenarios[0], "oracle", scenarios[0].best_log, 0.5, 1.0)
    assert json.loads(row["tools"]) == TOOLS
    assert (row["scenario_id"], row["reward"], row["normalized"]) == (scenarios[0].id, 0.5, 1.0)

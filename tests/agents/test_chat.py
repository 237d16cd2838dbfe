"""A chat model as an agent: what it reads, what of its replies counts, and what is counted."""

import json

import numpy as np
import pytest

from kv_cache_rl.agents.chat import LOST_IN_A_ROW, Answer, ChatAgent, Lost
from kv_cache_rl.agents.chat_text import MOST_REPEAT, SYSTEM_PROMPT, TOOL, read_calls, read_state, state_text
from kv_cache_rl.sim.serving.actions import ACTIONS, ADMIT, NOTHING
from kv_cache_rl.sim.serving.observe import OBSERVATION, RICH

ALL = np.ones(len(ACTIONS), np.int8)
VIEW = np.linspace(-0.3, 1.0, len(RICH)).astype(np.float32)


def acts(**arguments):
    """An answer with one call of act."""
    return Answer((("act", json.dumps(arguments)),), read=100, written=10)


def agent_of(*answers):
    """An agent whose model gives these answers in turn, and what it was asked."""
    asked, turns = [], iter(answers)

    def ask(messages, tools):
        asked.append(messages)
        answer = next(turns)
        if isinstance(answer, Exception):
            raise answer
        return answer

    agent = ChatAgent(ask)
    agent.reset(3)
    return agent, asked


@pytest.mark.parametrize("numbers", [len(OBSERVATION), len(RICH)])
def test_what_the_text_shows_is_read_back_to_a_hundredth_of_a_per_cent(numbers):
    mask = np.zeros(len(ACTIONS), np.int8)
    mask[[0, 9, 17]] = 1
    text = state_text(VIEW[:numbers], mask)
    view, found = read_state(text)
    assert np.abs(view[:numbers] - VIEW[:numbers]).max() < 1e-4 and (found == mask).all()
    assert len(text) < 900 and "9 admit_vip" in text
    with pytest.raises(ValueError, match="send what the environment gave"):
        read_state("hello")


def test_every_action_stands_in_the_prompt_and_the_tool_takes_what_is_read():
    assert all(f"{number} {name}" in SYSTEM_PROMPT for number, name in enumerate(ACTIONS))
    limits = TOOL["function"]["parameters"]["properties"]
    assert limits["action"]["maximum"] == len(ACTIONS) - 1 and limits["repeat"]["maximum"] == MOST_REPEAT
    assert read_calls(acts(action=limits["action"]["maximum"], repeat=MOST_REPEAT).calls) == (17, MOST_REPEAT)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("act", {"action": 9}, (9, 1)),
        ("act", {"action": 9.0, "repeat": None}, (9, 1)),
        ("act", {"action": "9", "repeat": "3"}, (9, 3)),
        ("functions.act", {"action": "admit_vip", "why": "it waits"}, (9, 1)),
        ("act", json.dumps({"action": 2, "repeat": 5}), (2, 5)),
    ],
)
def test_calls_as_models_write_them_are_read(name, arguments, expected):
    assert read_calls([(name, json.dumps(arguments))]) == expected


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer((), "I would admit."), "no_call"),
        (Answer((("evict", "{}"),)), "unknown_tool"),
        (Answer((("interact", '{"action": 1}'),)), "unknown_tool"),
        (Answer((("act", '{"action": '),)), "unreadable"),
        (Answer((("act", "[" * 5_000),)), "unreadable"),
        (Answer((("act", "[9]"),)), "unreadable"),
        (Answer((("act", ""),)), "unknown_action"),
        (acts(action=18), "unknown_action"),
        (acts(action=-1), "unknown_action"),
        (acts(action=True), "unknown_action"),
        (acts(action=8.5), "unknown_action"),
        (acts(action=[8]), "unknown_action"),
        (acts(action={"a": 1}), "unknown_action"),
        (Answer((("act", '{"action": NaN}'),)), "unknown_action"),
        (Answer((("act", '{"action": 1e999}'),)), "unknown_action"),
        (acts(action="9" * 5_000), "unknown_action"),
        (acts(action=8, repeat=0), "repeat_out_of_range"),
        (acts(action=8, repeat=MOST_REPEAT + 1), "repeat_out_of_range"),
        (acts(action=8, repeat="often"), "repeat_out_of_range"),
    ],
)
def test_what_cannot_be_used_is_counted_by_its_kind_and_the_tick_passes(answer, kind):
    agent, _ = agent_of(answer, acts(action=ADMIT))
    assert agent.act(VIEW, ALL) == NOTHING
    assert getattr(agent.counts, kind) == agent.counts.failures == agent.counts.calls == 1
    assert agent.counts.used == 0 and agent.counts.first_failure
    assert agent.act(VIEW, ALL) == ADMIT and agent.counts.used == 1


def test_an_action_is_held_once_a_tick_where_it_has_a_target():
    agent, asked = agent_of(acts(action=ADMIT, repeat=3), acts(action=NOTHING, repeat=2), acts(action=0))
    none = ALL.copy()
    none[ADMIT] = 0
    assert [agent.act(VIEW, ALL) for _ in range(2)] == [ADMIT, NOTHING]
    assert agent.act(VIEW, none) == NOTHING, "it has no target in the second tick, which passes"
    assert agent.act(VIEW, ALL) == ADMIT and len(asked) == 1
    assert [agent.act(VIEW, ALL) for _ in range(3)] == [NOTHING, NOTHING, 0] and len(asked) == 3
    assert agent.counts.no_target == 0


def test_an_action_without_a_target_is_counted_and_does_nothing():
    agent, _ = agent_of(acts(action=ADMIT))
    mask = ALL.copy()
    mask[ADMIT] = 0
    assert agent.act(VIEW, mask) == NOTHING
    assert (agent.counts.used, agent.counts.no_target, agent.counts.failures) == (1, 1, 0)


def test_a_server_that_loses_calls_in_a_row_is_given_up_for_the_episode():
    agent, asked = agent_of(
        Lost("slow"), acts(action=0), *[Lost("slow")] * LOST_IN_A_ROW, acts(action=0), acts(action=0)
    )
    played = [agent.act(VIEW, ALL) for _ in range(40)]
    assert played.count(0) == 1 and len(asked) == 2 + LOST_IN_A_ROW
    assert agent.counts.gone and agent.counts.lost == 1 + LOST_IN_A_ROW and agent.counts.first_loss == "slow"
    agent.reset(4)
    assert agent.act(VIEW, ALL) == 0 and not agent.counts.gone and agent.counts.lost == 0


def test_tokens_add_up_and_the_prompt_stays_short():
    agent, asked = agent_of(*[acts(action=NOTHING)] * 5)
    for _ in range(5):
        agent.act(VIEW, ALL)
    assert (agent.counts.read, agent.counts.written) == (500, 50)
    assert {len(messages) for messages in asked} == {2}

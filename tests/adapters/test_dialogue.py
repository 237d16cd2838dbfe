"""Dialogues are read back into observations, and a decider's state follows from the dialogue alone."""

import json
import random

import pytest

from kv_cache_rl.adapters.dialogue import DialogueError, Players, observation_text, observation_texts
from kv_cache_rl.sim.eviction import Call


def observed(name: str, **more: object) -> str:
    return json.dumps({"memory_usage": 0.5, **more, "visible_seq_ids": [name]}, separators=(",", ":"))


PLAIN = observed("s1")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (PLAIN, PLAIN),
        (f"ok: evicted\n{PLAIN}", PLAIN),
        (f"ok: evicted\n{PLAIN}\n", PLAIN),
        (f'{{"a": 1}} is not it\n{PLAIN}', PLAIN),
        (json.dumps(json.loads(PLAIN), indent=1), json.dumps(json.loads(PLAIN), indent=1)),
        ("ok: evicted", None),
        ('{"a": 1}', None),
        (f"{PLAIN} and more text", None),
        (f"text before {PLAIN}", None),
        ("", None),
    ],
)
def test_an_observation_is_the_whole_message_or_its_last_lines(content, expected):
    assert observation_text(content) == expected


def test_observations_come_from_user_and_tool_messages_in_order_and_never_from_the_assistant():
    messages = [
        {"role": "system", "content": PLAIN},
        {"role": "user", "content": [{"type": "text", "text": observed("a")}]},
        {"role": "assistant", "content": observed("x"), "tool_calls": []},
        {"role": "tool", "content": "ok"},
        {"role": "tool", "content": f"ok\n{observed('b')}"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": f"No tool was called.\n{observed('c')}"},
    ]
    assert observation_texts(messages) == [observed("a"), observed("b"), observed("c")]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([{"role": "user", "content": "hello"}], "none of the 1 messages holds an observation"),
        ([{"role": "user", "content": 7}], "send the environment's JSON"),
        (["hello"], r"messages\[0\] is str"),
    ],
)
def test_a_dialogue_without_an_observation_says_what_to_send(messages, words):
    with pytest.raises(DialogueError, match=words):
        observation_texts(messages)


def remembering():
    """A decider whose calls depend on everything it saw: any lost or doubled observation shows."""
    seen: list[str] = []

    def decide(observation: dict) -> list[Call]:
        seen.append(observation["visible_seq_ids"][0])
        return [Call("evict", "-".join(seen))]

    return decide


def expected_calls(dialogue: list[str]) -> list[tuple[Call, ...]]:
    decide = remembering()
    return [tuple(decide(json.loads(text))) for text in dialogue]


@pytest.mark.parametrize("capacity", [1, 2, 7, 4096])
@pytest.mark.parametrize("seed", range(5))
def test_interleaved_dialogues_with_a_common_start_and_repeated_requests_each_get_their_own_state(capacity, seed):
    rng = random.Random(seed)
    common = [observed(f"c{step}") for step in range(4)]
    dialogues = [common + [observed(f"{branch % 4}.{step}") for step in range(6)] for branch in range(8)]
    players = Players(capacity, {"remembering": remembering})
    turns = [(which, step) for which in range(8) for step in range(10)]
    rng.shuffle(turns)
    turns = sorted(turns, key=lambda turn: turn[1] + rng.random() * 3) + turns[:20]
    for which, step in turns:
        dialogue = dialogues[which][: step + 1]
        _, calls = players.reply("remembering", dialogue)
        assert calls == expected_calls(dialogue)[-1]
        assert len(players) <= capacity


def test_the_next_reply_of_a_dialogue_costs_one_decision_not_one_per_observation():
    made: list[int] = []

    def counting():
        def decide(observation: dict) -> list[Call]:
            made.append(1)
            return []

        return decide

    players, dialogue = Players(64, {"counting": counting}), [observed(str(step)) for step in range(15)]
    for step in range(15):
        players.reply("counting", dialogue[: step + 1])
    assert len(made) == 15


def test_the_same_dialogue_for_two_deciders_is_two_dialogues():
    players = Players(64, {"one": lambda: lambda _: [Call("keep")], "two": lambda: lambda _: [Call("evict", "s1")]})
    assert players.reply("one", [PLAIN])[1] == (Call("keep"),)
    assert players.reply("two", [PLAIN])[1] == (Call("evict", "s1"),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"visible_seq_ids": [}', "not valid JSON"),
        ('[{"visible_seq_ids": 1}]', "not a JSON object"),
        ('{"visible_seq_ids": []}', "lru cannot read an observation"),
        ('{"visible_seq_ids": ' + "[" * 100_000, "not valid JSON"),
    ],
)
def test_a_damaged_observation_is_refused_and_leaves_the_dialogue_playable(text, words):
    players = Players()
    with pytest.raises(DialogueError, match=words):
        players.reply("lru", [text])
    assert len(players) == 0

"""Dialogues are read back into observations, and the last of them is answered."""

import json

import pytest

from kv_cache_rl.adapters.dialogue import DialogueError, answer, observation_text, observation_texts
from kv_cache_rl.sim.eviction import DECIDERS, Call


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


def test_the_last_observation_decides_and_the_key_tells_dialogues_apart(monkeypatch):
    monkeypatch.setitem(DECIDERS, "idle", lambda: lambda seen: [])
    monkeypatch.setitem(
        DECIDERS, "first id", lambda: lambda seen: [Call("evict", seen["visible_seq_ids"][0])]
    )
    dialogues = [
        [observed("a")],
        [observed("b")],
        [observed("a"), observed("b")],
        [observed("b"), observed("b")],
    ]
    answers = [answer("first id", dialogue) for dialogue in dialogues]
    assert [calls for _, calls in answers] == [(Call("evict", name),) for name in "abbb"]
    assert len({key for key, _ in answers} | {answer("idle", dialogues[0])[0]}) == 5
    assert answer("first id", dialogues[2]) == answers[2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"visible_seq_ids": [}', "not valid JSON"),
        ('[{"visible_seq_ids": 1}]', "not a JSON object"),
        ('{"visible_seq_ids": []}', "lru cannot read an observation"),
        ('{"visible_seq_ids": ' + "[" * 100_000, "not valid JSON"),
    ],
)
def test_a_damaged_observation_is_refused(text, words):
    with pytest.raises(DialogueError, match=words):
        answer("lru", [PLAIN, text])

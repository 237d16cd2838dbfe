"""The class that TRL drives: its contract, and that its reward is that of the calls."""

import inspect
import json
import typing

import pytest

from kv_cache_rl.adapters.trl import EvictionEnvironment, rows
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.sim.eviction import Episode, load_scenarios, replay, rollout
from kv_cache_rl.sim.eviction.deciders import decider

ROW = rows(split="train", difficulty="easy", num_examples=1)[0]
SCENARIO = load_scenarios(split="train", difficulty="easy", num_examples=1)[0]
NOTHING: dict = {"evict": [], "compress": [], "swap_to_cpu": []}


def begun() -> tuple[EvictionEnvironment, str]:
    environment = EvictionEnvironment()
    return environment, environment.reset(**ROW)


def test_its_only_tool_is_act_with_types_and_a_docstring_that_names_every_argument():
    public = [
        name
        for name, one in inspect.getmembers(EvictionEnvironment, inspect.isfunction)
        if not name.startswith("_") and name not in ("reset", "get_reward")
    ]
    assert public == ["act"]
    hints = typing.get_type_hints(EvictionEnvironment.act)
    assert hints.pop("return") is str
    assert set(hints) == set(NOTHING) and all(hint == list[str] for hint in hints.values())
    doc = inspect.getdoc(EvictionEnvironment.act)
    assert doc and all(f"    {name}: " in doc for name in hints)


def test_a_row_has_a_prompt_and_what_reset_takes():
    assert [one["scenario_id"] for one in rows(split="eval", num_examples=3)] == [
        one.id for one in load_scenarios(split="eval", num_examples=3)
    ]
    _, text = begun()
    assert [message["role"] for message in ROW["prompt"]] == ["system", "user"]
    assert json.loads(text)["left"] == 15 and text == Episode(SCENARIO, "brief").prompt()


def test_the_reward_is_what_replay_gives_for_the_calls():
    environment, text = begun()
    log = []
    for window in range(15):
        ids = [row.split()[0] for row in json.loads(text.splitlines()[-1])["rows"][:3]]
        asked = NOTHING | (
            {"evict": ids[:1], "compress": ids[1:]} if window % 2 else {"swap_to_cpu": ids[:1]}
        )
        log.append([[verb, one] for verb, named in asked.items() for one in named])
        text = environment.act(**asked)
    assert text.splitlines()[-1] == "The episode is over."
    # The brief view's ids are short names; the log of an episode has the entries' own.
    played = environment._episode.log
    assert [[verb for verb, *_ in window] for window in played] == [[verb for verb, _ in one] for one in log]
    assert environment.get_reward() == replay(SCENARIO, played).normalized


def test_what_was_not_played_counts_as_keep():
    environment, _ = begun()
    assert environment.get_reward() == rollout(SCENARIO, decider("keep")).normalized
    environment, _ = begun()
    environment.act(**NOTHING)
    assert environment.get_reward() == rollout(SCENARIO, decider("keep")).normalized


def test_an_instance_is_used_again():
    environment, first = begun()
    other = rows(split="train", difficulty="hard", num_examples=1)[0]
    environment.act(evict=["a"], compress=[], swap_to_cpu=[])
    assert environment.reset(**other) != first
    assert environment.reset(**ROW) == first
    assert environment.get_reward() == rollout(SCENARIO, decider("keep")).normalized


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"evict": "a"}, "evict: 'a' is no list of ids; send [] for none"),
        ({"compress": [3]}, "compress: '3' is no id; send ids of rows as strings"),
        ({"swap_to_cpu": ["x" * 99]}, "is no id; send ids"),
        ({"evict": ["zzz"]}, "no entry 'zzz' in the cache now"),
        ({"evict": None}, "evict: 'None' is no list of ids"),
        ({"evict": ["a"] * 40}, "only the first 16 calls of a window count"),
    ],
)
def test_a_bad_argument_is_told_and_the_window_goes_on(asked, said):
    environment, _ = begun()
    text = environment.act(**NOTHING | asked)
    assert said in text and json.loads(text.splitlines()[-1])["left"] == 14


def test_an_act_after_the_end_changes_nothing():
    environment, _ = begun()
    for _ in range(15):
        environment.act(**NOTHING)
    score = environment.get_reward()
    assert environment.act(evict=["a"], compress=[], swap_to_cpu=[]) == "The episode is over."
    assert environment.get_reward() == score


def test_what_cannot_begin_says_why():
    with pytest.raises(Refused, match="make the dataset with"):
        EvictionEnvironment().reset(scenario_id="eviction-train-easy-9999-v2")
    with pytest.raises(Refused, match="make the dataset with"):
        EvictionEnvironment().reset(prompt=[])
    for odd in (None, 5, ["eviction-train-easy-0000-v2"]):
        with pytest.raises(Refused, match="the row has no scenario_id"):
            EvictionEnvironment().reset(odd)
    with pytest.raises(Refused, match="call reset"):
        EvictionEnvironment().act(**NOTHING)

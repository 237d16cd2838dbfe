"""The observation: its fields, its size, and that nothing is lost between the table and the text."""

import dataclasses
import json
import re

import numpy as np
import pytest

from kv_cache_rl.search.eviction.rollout import policy_return
from kv_cache_rl.sim.eviction import DECIDERS, DIFFICULTIES, SYSTEM_PROMPT, Episode, rollout
from kv_cache_rl.sim.eviction import observe as o
from kv_cache_rl.sim.eviction import text as written

FIELDS = [
    "memory_usage", "memory_budget", "episode_remaining", "time_above_0_95", "pending_queue_growth", "pages",
    "prefill_backlog_s", "cache_overview", "columns", "rows", "top_memory_entries", "top_eviction_candidates",
    "pending_summary", "visible_seq_ids",
]  # fmt: skip
SECRET = re.compile(r"reward|score|toleran|penalt|regret|floor|\bbest\b|failur|future|turns", re.IGNORECASE)
SCENARIOS = [(difficulty, seed) for difficulty in DIFFICULTIES for seed in range(4)]


def prompts(made, name):
    """Every prompt of an episode, and the episode as it stood then."""
    episode, decide = Episode(made), DECIDERS[name]()
    while not episode.done:
        text = episode.prompt()
        yield episode, text
        episode.step(decide(json.loads(text)))


@pytest.mark.parametrize("name", DECIDERS)
def test_every_prompt_is_short_has_its_fields_in_order_and_tells_no_secret(kit, name):
    for difficulty, seed in SCENARIOS:
        for _, text in prompts(kit.generate(difficulty, seed), name):
            assert len(text) <= written.MAX_CHARACTERS == 3_600
            values = json.loads(text)
            assert list(values) == FIELDS and not SECRET.search(text)
            assert len(values["rows"]) <= 32 and all(
                len(row) == len(values["columns"]) for row in values["rows"]
            )
            assert [row[0] for row in values["rows"]] == values["visible_seq_ids"]
            assert set(values["top_memory_entries"]) | set(values["top_eviction_candidates"]) <= set(
                values["visible_seq_ids"]
            )


def test_the_longest_ids_a_scenario_may_have_do_not_make_a_prompt_too_long(kit):
    for seed in range(6):
        made = kit.generate("hard", seed)
        sessions = tuple(dataclasses.replace(x, seq_id=f"{k:04d}") for k, x in enumerate(made.sessions))
        prefixes = tuple(
            dataclasses.replace(p, prefix_id=f"pre{k}", anchor_id=f"sys{k}")
            for k, p in enumerate(made.prefixes)
        )
        made = dataclasses.replace(made, sessions=sessions, prefixes=prefixes)
        for name in ("keep", "compress_int8", "swap_all"):
            assert max(len(text) for _, text in prompts(made, name)) <= written.MAX_CHARACTERS


@pytest.mark.parametrize("name", ["keep", "weigh_value", "random", "compress_int4", "swap_all"])
def test_the_table_written_down_and_read_back_is_the_same_table(kit, name):
    for difficulty, seed in SCENARIOS[::3]:
        for episode, text in prompts(kit.generate(difficulty, seed), name):
            rows, head = o.new_view()
            n = o.view(*episode.state, rows, head)
            read_rows, read_head, ids = written.read_view(json.loads(text))
            seen, read = (table.view(o.ROW)[:n, 0] for table in (rows, read_rows))
            assert ids == [episode.names[slot] for slot in seen["slot"]]
            # Slots become row numbers and prefixes are numbered anew; which rows share one stays.
            for field in set(o.Row._fields) - {"slot", "prefix"}:
                assert np.array_equal(read[field], seen[field])
            assert not read_rows[n:].any()
            same = seen["prefix"][:, None] == seen["prefix"]
            assert np.array_equal(same, read["prefix"][:, None] == read["prefix"])
            then, now = (o.Head._make(values.tolist()) for values in (read_head, head))
            assert then._replace(step=now.step) == now


@pytest.mark.parametrize("name", DECIDERS)
def test_a_decider_behind_the_text_plays_as_the_compiled_one(kit, name):
    def through_text(observation):
        return decide(json.loads(written.to_text(observation)))

    for difficulty, seed in SCENARIOS[::2]:
        made, decide = kit.generate(difficulty, seed), DECIDERS[name]()
        assert rollout(made, through_text).total == policy_return(made, name)


@pytest.mark.parametrize("name", DECIDERS)
def test_calling_a_decider_twice_gives_the_same_calls(kit, name):
    seen = Episode(kit.generate("hard", 2)).observation()
    first = DECIDERS[name]()
    assert list(first(seen)) == list(first(seen)) == list(DECIDERS[name]()(json.loads(json.dumps(seen))))


def test_the_numbers_are_those_of_the_cache(kit):
    made = kit.scenario(
        kit.session("a", 40, prefix=0), kit.session("b", 20, kind="ephemeral"),
        kit.session("c", 10, place="cpu"), kit.session("w", 0, kit.turn(0, new=60 * 128)),
        budget=100, cpu=50, prefixes=(8,),
    )  # fmt: skip
    seen = kit.play(made, 2, t0=[("compress", "a")], t1=[("compress", "b")]).observation()
    assert seen["memory_usage"] == 0.98 and seen["pages"]["used"] == 98 and seen["pages"]["cpu_used"] == 5, (
        "what lies on the CPU at the start has 8 bits"
    )
    assert seen["cache_overview"] == {
        "system": 1, "context": 2, "tool_result": 0, "generation": 1, "reasoning": 0, "ephemeral": 1,
        "compressed": 3, "swapped": 1,
    }  # fmt: skip
    assert seen["top_memory_entries"][:3] == ["w", "a", "b"]
    assert seen["top_eviction_candidates"][0] == "b" and seen["episode_remaining"] == 13
    row = dict(zip(seen["columns"], next(r for r in seen["rows"] if r[0] == "a"), strict=True))
    assert row | {"uses": 1, "age": 1, "value": 0} == {
        "id": "a", "type": "context", "class": "chat", "state": "idle", "pages": 40, "bits": 8,
        "place": "gpu", "priority": 50, "progress": 0, "value": 0, "idle": 2, "uses": 1, "age": 1,
        "prefix": "p0", "sharers": 2, "reload_s": 0,
    }  # fmt: skip


def test_the_queue_is_summed_up(kit):
    made = kit.scenario(
        kit.session("full", 90),
        kit.session("b", 30, kit.turn(1, 30, new=128), place="cpu"),
        kit.session("w", 0, kit.turn(0, new=20 * 128)),
    )
    seen = kit.play(made, 3).observation()
    assert seen["pending_summary"] == {
        "queued": 2, "pages_needed": 35.5, "from_cpu": 15.5, "first_needs": 20, "first_waited": 3.0,
        "first": [["w", 20, 3.0], ["b", 15.5, 2.0]],
    }  # fmt: skip


@pytest.mark.parametrize(
    "junk",
    [
        {},
        {"rows": 5},
        {"rows": [[]]},
        {"rows": [["a"] * 16]},
        [],
        None,
        {"rows": [], "pages": {}, "pending_summary": {}},
    ],
)
def test_what_is_no_observation_is_named_so(junk):
    with pytest.raises(ValueError, match="not an observation of the eviction environment"):
        written.read_view(junk)


def test_the_system_prompt_is_short_names_every_tool_and_every_rule_number():
    assert len(SYSTEM_PROMPT.split()) < 350
    for word in (
        "evict",
        "compress",
        "swap_to_cpu",
        "keep",
        "15 windows",
        "at most 16",
        "more than 5 windows",
    ):
        assert word in SYSTEM_PROMPT

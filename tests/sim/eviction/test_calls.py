"""Whatever a model writes as a tool call is read or answered, never raised."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_cache_rl.sim.eviction import (
    DECIDERS,
    TOOLS,
    Call,
    Episode,
    LogError,
    counting,
    load_scenarios,
    parse_call,
    replay,
    rollout,
    text_only_reply,
    tool_messages,
)

DEEP = "[" * 100_000
GOOD = '{"seq_id": "s1"}'
JUNK = [
    ("teleport", GOOD, "unknown tool 'teleport'; use one of keep, evict, compress, swap_to_cpu"),
    ("", GOOD, "unknown tool ''"),
    ("EVICT", GOOD, "unknown tool 'EVICT'"),
    (None, GOOD, "unknown tool 'None'"),
    (["evict"], GOOD, "unknown tool"),
    ("x" * 1_000_000, GOOD, "unknown tool 'xxx"),
    ("evict", "", "evict: the arguments are not JSON"),
    ("evict", "{", "evict: the arguments are not JSON"),
    ("evict", '{"seq_id": "s1"', "evict: the arguments are not JSON"),
    ("evict", "seq_id=s1", "evict: the arguments are not JSON"),
    ("evict", "x" * 1_000_000, "evict: the arguments are not JSON"),
    ("evict", DEEP, "evict: the arguments are not JSON"),
    ("evict", '{"seq_id":' * 100_000, "evict: the arguments are not JSON"),
    ("evict", "1" * 100_000, "evict: the arguments are not JSON"),
    ("evict", None, "evict: the arguments must be an object"),
    ("evict", "null", "evict: the arguments must be an object"),
    ("evict", "[]", "evict: the arguments must be an object"),
    ("evict", '"s1"', "evict: the arguments must be an object"),
    ("evict", 7, "evict: the arguments must be an object"),
    ("evict", b"{}", "evict: the arguments must be an object"),
    ("evict", "{}", "evict: seq_id must be a string"),
    ("compress", '{"seq_id": 7}', "compress: seq_id must be a string"),
    ("compress", '{"seq_id": null}', "compress: seq_id must be a string"),
    ("compress", '{"seq_id": ["s1"]}', "compress: seq_id must be a string"),
    ("compress", '{"seq_id": ""}', "compress: seq_id must be a string"),
    ("swap_to_cpu", '{"seq_id": "s1", "to": "disk"}', "swap_to_cpu: unknown argument 'to'"),
    ("swap_to_cpu", {"seq_id": "s1", 1: 2, "a": 3}, "swap_to_cpu: unknown argument '1'"),
    ("evict", {"seq_id": "s1", "x" * 1_000_000: 1}, "evict: unknown argument 'xxx"),
    ("evict", json.dumps({"seq_id": "x" * 1_000_000}), "evict: seq_id 'xxx"),
    ("evict", '{"seq_id": "s1\\n{}"}', "evict: seq_id 's1"),
    ("evict", '{"seq_id": "\\ud800"}', "evict: seq_id"),
]


@pytest.mark.parametrize(("name", "arguments", "error"), JUNK, ids=range(len(JUNK)))
def test_junk_becomes_a_call_whose_error_says_what_to_send(kit, name, arguments, error):
    call = parse_call(name, arguments)
    assert call.error.startswith(error) and len(call.error) < 200
    episode = Episode(kit.scenario(kit.session("s1", 5)))
    (text,) = episode.step([call])
    assert text == f"refused: {call.error}"
    text.encode()
    assert kit.used(episode) == 5 and kit.counter(episode, "INVALID") == 1
    assert json.loads(json.dumps(episode.log)) == [[["?", call.error]]]


@pytest.mark.parametrize("verb", ["evict", "compress", "swap_to_cpu"])
def test_a_well_formed_call_is_read_from_text_and_from_an_object(verb):
    assert parse_call(verb, GOOD) == parse_call(verb, {"seq_id": "s1"}) == Call(verb, "s1")
    assert parse_call(verb, '{"seq_id": "no", "seq_id": "s1"}') == Call(verb, "s1")


@pytest.mark.parametrize("arguments", ["{}", "", None, "junk", GOOD, DEEP])
def test_keep_needs_no_arguments(arguments):
    assert parse_call("keep", arguments) == Call("keep")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.sampled_from(["evict", "compress", "swap_to_cpu", "keep", "x"]) | st.text(),
    st.text() | anything | anything.map(json.dumps),
)
def test_reading_a_call_never_raises_and_survives_the_log(name, arguments):
    call = parse_call(name, arguments)
    assert bool(call.error) == (call.verb == "?")
    assert Call.from_log(json.loads(json.dumps(call.to_log()))) == call


@pytest.mark.parametrize(
    "words",
    [
        5,
        None,
        "evict",
        [],
        ["evict"],
        ["evict", "a", "b"],
        ["evict", 7],
        [["evict"], "a"],
        ["fly", "a"],
        {"a": 1},
    ],
)
def test_a_logged_call_that_makes_no_sense_is_read_as_an_error_not_raised(words):
    assert Call.from_log(words).error


LOGGED = [["keep"]]
"""A window in which nothing was done."""


@pytest.mark.parametrize(
    ("log", "fault"),
    [
        ({}, "it is dict '{}', not a list of windows"),
        ("keep", "it is str 'keep', not a list of windows"),
        (None, "it is NoneType"),
        ([LOGGED, "keep"], "window 2 is str 'keep', not a list of calls"),
        ([LOGGED, {"verb": "evict"}], "window 2 is dict"),
        ([[{"verb": "evict", "seq_id": "a"}], LOGGED], "window 1 holds .*not a call such as"),
        ([["evict"], LOGGED], "window 1 holds 'evict', not a call"),
        ([[["evict"]], LOGGED], "window 1 holds .*not a call"),
        ([[["evict", "a", "b"]], LOGGED], "window 1 holds"),
        ([[["evict", 7]], LOGGED], "window 1 holds"),
        ([[[]], LOGGED], "window 1 holds"),
        ([LOGGED], "the log has 1 windows, .* has 2"),
        ([LOGGED] * 3, "the log has 3 windows, .* has 2"),
    ],
)
def test_what_is_no_action_log_of_the_episode_gets_no_score(kit, log, fault):
    made = kit.scenario(kit.session("a", 5), steps=2)
    with pytest.raises(LogError, match=fault):
        replay(made, log)
    assert replay(made, [LOGGED, LOGGED]).total == replay(made, [LOGGED], cut_short=True).total
    if len(log or ()) > 2 or "windows, " not in fault:
        with pytest.raises(LogError, match=fault):
            replay(made, log, cut_short=True)


@pytest.mark.parametrize(("log", "calls"), [([], 0), ([[]], 0), ([[("keep",)] * 3], 3)])
def test_windows_that_were_not_played_hold_no_calls(kit, log, calls):
    from kv_cache_rl.cli.eviction.findings import refused_calls
    from kv_cache_rl.reports.eviction.outcome import from_report

    made = kit.scenario(kit.session("a", 5), steps=4)
    assert replay(made, log, cut_short=True).metrics["calls_per_step"] == calls / 4
    bad = [[("evict", "zz")] * 3]
    outcome = from_report(made, "m", replay(made, bad, cut_short=True), bad)
    outcome.metrics["unplayed_steps"] = 3.0
    why = "no entry 'zz' in the cache now"
    assert refused_calls([outcome], {made.id: made}) == f"3 of 3 calls were refused, most often: {why}"


def test_an_unknown_verb_in_a_log_is_a_refused_call_as_it_was_in_the_episode(kit):
    made = kit.scenario(kit.session("a", 5), steps=2)
    live = Episode(made)
    live.step([Call("fly", "a")])
    live.step([Call("keep")])
    assert replay(made, live.log).metrics["invalid_calls"] == live.report().metrics["invalid_calls"] == 1


def test_duplicate_and_foreign_ids_in_one_message_are_answered_one_by_one_in_order(kit):
    episode = Episode(kit.scenario(kit.session("a", 5), kit.session("b", 6)))
    texts = episode.step(
        [Call("evict", "a"), Call("evict", "a"), Call("evict", "zz"), Call("keep"), Call("swap_to_cpu", "b")]
    )
    assert [text.split(":")[0] for text in texts] == ["ok", "refused", "refused", "ok", "ok"]
    assert texts[3] == "ok: nothing changed" and texts[4] == "ok: 6 pages moved to the CPU pool"


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        (
            [("evict", "a")],
            r"a list of Call, not tuple \"\('evict', 'a'\)\"; write \[Call\('evict', 's7'\)\]",
        ),
        ([Call("keep"), ["evict", "a"]], "a list of Call, not list"),
        ("keep", "a list of Call, not str 'k'"),
        (Call("keep"), "a list of Call, not Call"),
        (None, "a list of Call, not NoneType 'None'"),
    ],
)
def test_a_step_with_anything_but_calls_says_what_to_write_and_plays_nothing(kit, calls, message):
    episode = Episode(kit.scenario(kit.session("a", 5)))
    with pytest.raises(TypeError, match=message):
        episode.step(calls)
    assert episode.t == 0 and kit.used(episode) == 5


def test_a_call_with_a_verb_that_does_not_exist_is_refused_with_the_choices(kit):
    (text,) = Episode(kit.scenario(kit.session("a", 5))).step([Call("drop", "a")])
    assert text == "refused: unknown tool 'drop'; use one of keep, evict, compress, swap_to_cpu"


def test_an_episode_of_no_scenario_and_a_decider_that_is_none_are_named(kit):
    made = kit.scenario(kit.session("a", 5))
    with pytest.raises(TypeError, match=r"plays a Scenario, not dict .* read one with Scenario\.from_json"):
        Episode(made.to_json())
    with pytest.raises(TypeError, match=r"decide is 'lru', not a function .* DECIDERS\['lru'\]\(\)"):
        rollout(made, "lru")
    with pytest.raises(TypeError, match=r"makes a decider, it is none; call it: DECIDERS\['lru'\]\(\)"):
        rollout(made, DECIDERS["lru"])
    with pytest.raises(TypeError, match=r"decide is the class Episode; give a decider: Episode\(\)"):
        rollout(made, Episode)


@pytest.mark.parametrize("call", [Call("evict", {"seq_id": "a"}), Call("evict", 7), Call(["evict"], "a")])
def test_a_call_of_other_things_than_texts_is_named_and_changes_nothing(kit, call):
    episode = Episode(kit.scenario(kit.session("a", 5)))
    with pytest.raises(TypeError, match=r"where a Call holds texts; write Call\('evict', 's7'\)"):
        episode.step([Call("keep"), call])
    assert episode.t == 0 and episode.timeline == []


def test_the_tools_are_what_the_reader_accepts():
    assert [tool["function"]["name"] for tool in TOOLS] == ["evict", "compress", "swap_to_cpu", "keep"]
    for tool in TOOLS:
        parameters = tool["function"]["parameters"]
        assert parameters["additionalProperties"] is False
        arguments = dict.fromkeys(parameters["required"], "s1")
        assert not parse_call(tool["function"]["name"], json.dumps(arguments)).error


def test_the_observation_stands_at_the_end_of_the_last_tool_message():
    assert tool_messages(["a", "b"], "{}") == ["a", "b\n{}"]
    assert tool_messages(["a", "b"], None) == ["a", "b"]
    assert text_only_reply("{}").endswith("\n{}")


def test_the_reason_that_came_most_often_is_named_of_all_refusals(kit):
    from kv_cache_rl.cli.eviction.findings import refused_calls
    from kv_cache_rl.reports.eviction.outcome import from_report

    made = kit.scenario(kit.session("a", 5), steps=2)
    log = [[("evict", f"z{k}") for k in range(4)] + [("?", "evict: the arguments are not JSON")]] * 2
    outcome = from_report(made, "m", replay(made, log), log)
    said = refused_calls([outcome], {made.id: made})
    assert said == "10 of 10 calls were refused, most often: no entry 'z0' in the cache now"
    outcome.metrics["invalid_calls"] += 30  # of which no log tells
    outcome.metrics["calls_per_step"] += 15
    said = refused_calls([outcome], {made.id: made})
    assert said == "40 of 40 calls were refused, most often: only the first 16 calls of a window count"


def test_a_diagnosis_counts_calls_that_no_log_holds_and_names_no_field_of_another_view(kit):
    made = kit.scenario(kit.session("a", 5), steps=2)
    report = replay(made, [[("evict", "zz")], [("keep",)]])
    assert "1 calls were refused, the first with: refused: no entry 'zz' in the cache now." in report.notes
    more = counting(report, made, 53)
    assert (more.metrics["invalid_calls"], more.metrics["calls_per_step"]) == (54, 27.5)
    assert "54 calls were refused" in more.notes and more.total == report.total


def test_a_peak_of_exactly_95_per_cent_is_not_above_it():
    [one] = [s for s in load_scenarios("hard", "test", -1) if s.id == "eviction-test-hard-0015-v2"]
    report = rollout(one, DECIDERS["keep"]())
    assert "above 95 % of its budget in 9 windows" in report.notes
    assert sum(window["usage_peak"] >= 0.95 for window in report.timeline) == 10

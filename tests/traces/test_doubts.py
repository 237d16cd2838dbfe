"""What a file leaves open is read in one way, and said; what is near to a trace and none is named."""

import json

import pytest

from kv_cache_rl.sim.eviction import load_scenarios
from kv_cache_rl.traces.demand import demand_of
from kv_cache_rl.traces.errors import TraceError
from kv_cache_rl.traces.formats import detect, requests_of
from kv_cache_rl.traces.reading import Reading

SIZED = Reading(block_size=512)


@pytest.fixture
def table(write):
    """table(moments) → an Azure table with a row for each."""

    def made(*moments: str):
        rows = [f"{moment},{400 + number},20" for number, moment in enumerate(moments)]
        return write(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows], "t.csv")

    return made


def told(path, reading=None):
    """Times and notes of a file."""
    found = requests_of(path, reading)
    return [one.time_s for one in found.arrivals], found.notes


def test_dates_with_slashes_that_tell_no_order_are_read_month_first_and_said(table):
    times, notes = told(table("01/11/2023 00:00", "02/11/2023 00:00"))
    assert times == [0, 31 * 86_400]
    [note] = notes
    assert "dates such as 01/11/2023 are read as month/day/year" in note and "2023-11-16" in note


@pytest.mark.parametrize("moments", [("11/01/2023 00:00", "11/16/2023 00:00"), ("2023-11-01 00:00:00",)])
def test_a_day_over_twelve_or_another_form_tells_the_order(table, moments):
    assert told(table(*moments))[1] == []


def test_a_date_with_its_day_first_is_asked_about(table):
    with pytest.raises(
        TraceError, match=r"line 3, field 'TIMESTAMP'.*is its day first\? write it as 2023-11"
    ):
        told(table("01/11/2023 18:00", "16/11/2023 18:00"))
    with pytest.raises(TraceError) as wrong:
        told(table("55/11/2023 18:00"))
    assert "day first" not in str(wrong.value)


@pytest.mark.parametrize("moments", [("45246.5", "45246.501", "45247"), ("45246", "45246.001", "45246.5")])
def test_numbers_as_excel_counts_days_are_days(table, moments):
    times, notes = told(table(*moments))
    first = float(moments[0])
    assert times == pytest.approx([(float(one) - first) * 86_400 for one in moments])
    assert "read as days, as Excel counts them: give --time-unit s" in notes[0]
    times, notes = told(table(*moments), Reading(time_unit="s"))
    assert times == pytest.approx([float(one) - first for one in moments]) and notes == []


def test_dates_take_no_unit_of_time(table):
    with pytest.raises(TraceError, match=r"is a date, which has no unit; leave out --time-unit"):
        told(table("2023-11-16 18:17:03.5"), Reading(time_unit="ms"))


@pytest.mark.parametrize("moments", [("0.5", "20000.5", "30000.25"), ("30000", "30001"), ("1700157600.5",)])
def test_seconds_stay_seconds(table, moments):
    times, notes = told(table(*moments))
    assert times == pytest.approx([float(one) - float(moments[0]) for one in moments]) and notes == []


CALL = {"type": "function", "function": {"name": "grep", "arguments": '{"x": "aaaaaaaa"}'}}


@pytest.mark.parametrize(
    "turn",
    [
        {"content": None, "tool_calls": [CALL]},
        {"content": None, "tool_calls": [CALL | {"function": {"name": "grep", "arguments": {"x": "a" * 8}}}]},
        {"content": None, "function_call": CALL["function"]},
        {"content": "", "reasoning_content": "t" * 21},
        {"content": [{"type": "tool_use", "name": "grep", "input": {"x": "a" * 8}}]},
        {"content": [{"type": "text", "text": "a" * 21}]},
    ],
)
def test_a_turn_is_as_long_as_all_that_was_written_in_it(write, turn):
    line = [{"role": "user", "content": "u" * 40}, {"role": "assistant", **turn}]
    line += [{"role": "tool", "content": "r" * 19}, {"role": "assistant", "content": "done"}]
    found = demand_of(write([{"messages": line}]))
    assert (found.prompts, found.outputs) == ([10, 20], [5, 1])


def test_the_dialogues_that_export_sft_writes_have_as_many_requests_as_windows(write):
    from kv_cache_rl.adapters.expert import expert_dialogue

    [scenario] = load_scenarios(split="eval", difficulty="easy")[:1]
    log = [[["evict", scenario.sessions[0].seq_id]]] + [[["keep"]]] * (scenario.steps - 1)
    found = demand_of(write([json.dumps({"messages": expert_dialogue(scenario, log)})]))
    assert len(found.prompts) == scenario.steps and found.prompts == sorted(found.prompts)


ROW = {"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}


@pytest.mark.parametrize("name", ["requests", "data"])
def test_requests_inside_another_object_are_named_with_the_way_out(write, name):
    with pytest.raises(TraceError, match=rf"stand in a list inside an object.*jq -c '\.{name}\[\]'"):
        detect(write([{name: [ROW, ROW], "name": "x"}], "t.json"))


@pytest.mark.parametrize(
    "line",
    [
        {"type": "user", "uuid": "a", "parentUuid": None, "sessionId": "s", "message": {"role": "user"}},
        {"type": "summary", "summary": "x", "leafUuid": "b"},
        {"type": "system", "sessionId": "s"},
    ],
)
def test_claude_codes_own_transcripts_are_named(write, line):
    with pytest.raises(TraceError, match=r"a transcript of Claude Code .*without the ids of blocks"):
        detect(write([line]))


def test_bailians_whole_times_far_apart_are_asked_about(write):
    rows = [ROW | {"chat_id": k, "type": "text", "turn": 1, "timestamp": 300 * k} for k in range(4)]
    [note] = told(write(rows), SIZED)[1]
    assert "4 requests in 900 s, read as seconds" in note and "--time-unit ms" in note
    said = told(write(rows), Reading(block_size=512, time_unit="ms"))[1]
    assert not any("read as seconds" in note for note in said)
    near = [row | {"timestamp": row["timestamp"] / 100} for row in rows]
    assert not any("read as seconds" in note for note in told(write(near), SIZED)[1])


@pytest.mark.parametrize("more", [{}, {"chat_id": 1}], ids=["mooncake", "bailian"])
def test_ids_that_are_numbers_and_texts_are_said_to_differ(write, more):
    mixed = [ROW | more, ROW | more | {"hash_ids": ["1", "2"]}]
    assert any('1 and "1" count as two blocks' in note for note in told(write(mixed), SIZED)[1])
    for one in ([1, 2], ["1", "2"], ["a", 2]):
        alike = [ROW | more | {"hash_ids": one}] * 2
        assert not any("two blocks" in note for note in told(write(alike), SIZED)[1])

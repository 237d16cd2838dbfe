"""What traces of every format ask of a server."""

import random

import pytest

from kv_cache_rl.sim.hierarchy.traces.convert import convert
from kv_cache_rl.sim.serving.recorded import recorded
from kv_cache_rl.traces import TraceError
from kv_cache_rl.traces.demand import Demand, demand_of
from kv_cache_rl.traces.formats import requests_of
from kv_cache_rl.traces.tracks import request_tracks


def test_sessions_give_lengths_shared_prefixes_and_durations_but_no_common_clock(write, session, call, agent):
    inner = agent(5.0, [call(0.0, 128, [[50, 2]], out=20), call(20.0, 192, [[50, 3]], api_time=4.0)])
    one = session("a", [call(0.0, 128, [[0, 2]]), inner, call(10.0, 256, [[0, 3], [9, 1]])])
    two = session("b", [call(3.0, 64, [[0, 1]], api_time=None)])
    found = demand_of(write([one, two]))
    assert found.format == "claude-code"
    assert found.prompts == [128, 128, 192, 256, 64]
    assert found.histories == [0, 0, 128, 192, 0], (
        "128 + 100 tokens fill three blocks, 128 + 20 the two again"
    )
    assert found.session_s == pytest.approx(29.0 + 0.0), "the sub-agent's last call ends at 5 + 20 + 4"
    assert found.rate == pytest.approx(5 / 29)
    assert found.arrivals_s == [] and found.peak_rate(1.0) is None


def test_chained_block_ids_tell_how_much_of_a_prompt_came_before(write):
    lines = [
        {"timestamp": 0, "input_length": 1024, "output_length": 5, "hash_ids": [0, 1]},
        {"timestamp": 2000, "input_length": 1500, "output_length": 7, "hash_ids": [0, 1, 2]},
        {"timestamp": 4000, "input_length": 600, "output_length": 9, "hash_ids": [0, 1]},
    ]
    found = demand_of(write(lines))
    assert found.histories == [0, 1024, 600]
    assert (found.outputs, found.arrivals_s) == ([5, 7, 9], [0.0, 2.0, 4.0])
    assert found.rate == pytest.approx(0.5), "two gaps in four seconds"


def test_content_ids_count_only_behind_the_same_blocks(write):
    base = {"parent_chat_id": -1, "type": "text", "turn": 1, "output_length": 3}
    lines = [
        base | {"chat_id": 1, "timestamp": 0.0, "input_length": 32, "hash_ids": [7, 8]},
        base | {"chat_id": 2, "timestamp": 1.0, "input_length": 32, "hash_ids": [8, 7]},
        base | {"chat_id": 3, "timestamp": 1.0, "input_length": 32, "hash_ids": [7, 9]},
    ]
    assert demand_of(write(lines)).histories == [0, 0, 16]


def test_tables_give_arrivals_and_lengths_and_leave_out_failed_calls(write):
    azure = [
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        "2023-11-16 18:00:00,100,10",
        "2023-11-16 18:00:30.5,200,20",
    ]
    found = demand_of(write(azure, "azure.csv.gz"))
    assert (found.prompts, found.outputs, found.histories) == ([100, 200], [10, 20], [])
    assert found.rate == pytest.approx(1 / 30.5)
    header = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
    burst = [header, "0,GPT-4,5,6,11,API log", "3,GPT-4,5,0,5,API log", "9,GPT-4,7,8,15,API log"]
    found = demand_of(write(burst, "burst.csv"))
    assert (found.prompts, found.failed) == ([5, 7], 1)


def test_the_busiest_window_slides_and_is_unknown_for_a_trace_shorter_than_it():
    demand = Demand("azure", arrivals_s=[0.0, 58.0, 59.0, 61.0, 62.0, 117.5, 200.0])
    assert demand.peak_rate(60.0) == pytest.approx(5 / 60), "58 up to 118"
    assert demand.peak_rate(201.0) is None


def test_one_moment_is_no_rate():
    assert Demand("azure", arrivals_s=[5.0, 5.0]).rate is None
    assert Demand("azure", arrivals_s=[5.0]).rate is None


def test_a_table_in_which_every_call_failed_is_refused(write):
    header = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
    with pytest.raises(TraceError, match="no request in it got an answer"):
        demand_of(write([header, "0,GPT-4,5,0,5,API log"]))


@pytest.mark.parametrize(
    ("name", "requests"),
    [("azure/AzureLLMInferenceTrace_conv.csv.gz", 19_366), ("mooncake/conversation_trace.jsonl.gz", 12_031)],
)
def test_published_traces_have_their_published_numbers_of_requests(real, name, requests):
    found = demand_of(real(name))
    assert found.requests == len(found.arrivals_s) == requests
    assert found.peak_rate(60.0) > found.rate


HEAD = "session_id,arrival_time,round_idx,prefix_len,input_len,output_len,tool_wait_after_ms"


@pytest.mark.parametrize(
    ("rounds", "found"),
    [
        ([(0, 1000, 100), (1100, 100, 100)], [0, 1100]),
        ([(0, 1000, 100), (0, 1200, 100)], [0, 0]),
        ([(0, 1200, 50), (200, 1380, 50), (0, 1700, 50), (0, 500, 50), (520, 10, 50)], [0, 200, 0, 0, 520]),
        ([(700, 300, 50), (5000, 9, 50)], [0, 1050]),
    ],
)
def test_of_a_round_so_much_is_found_as_its_session_is_said_to_hold(write, tmp_path, rounds, found):
    lines = [
        f"s1,{'0.0' if k == 0 else ''},{k},{held},{new},{out},0" for k, (held, new, out) in enumerate(rounds)
    ]
    path = write([HEAD, *lines], "t.csv")
    convert(path, tmp_path / "t.jsonl")
    for one in (path, tmp_path / "t.jsonl"):
        assert demand_of(one).histories == found
        assert recorded(str(one)).kept.tolist() == found
        [track] = request_tracks(requests_of(one), random.Random(0))
        assert [turn.kept_tokens for turn in track.turns] == found

"""What the readers return for files that are in order."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_cache_rl.traces import (
    FORMATS,
    detect,
    read,
    read_azure,
    read_bailian,
    read_burstgpt,
    read_mooncake,
    read_sessions,
    shared_blocks,
)
from kv_cache_rl.traces.claude_code import parse_sessions
from kv_cache_rl.traces.errors import Place, TraceError

LARGEST = 2**63 - 1


def test_a_session_keeps_every_field_and_its_sub_agents(write, session, call, agent):
    inner = call(0.5, 128, [[50, 2]], ot=["text", "thinking"])
    path = write([session("a", [call(0.0, 130, [[1, 2]], type="s"), agent(3.0, [inner])], tool_tokens=100)])
    (found,) = read_sessions(path)
    assert (found.id, found.models, found.block_size) == ("a", ("m",), 64)
    assert (found.tool_tokens, found.system_tokens, found.exact_duplicate) == (100, 64, False)
    (first,) = found.calls
    assert (first.t_s, first.kind, first.input_tokens, first.output_tokens) == (0.0, "s", 130, 100)
    assert (first.stop, first.api_s, first.think_s) == ("tool_use", 2.0, 1.0)
    assert (first.input_types, first.output_types, first.runs) == (
        ("tool_result",),
        ("text", "tool_use"),
        ((1, 2),),
    )
    (helper,) = found.sub_agents
    assert (helper.t_s, helper.agent_id, helper.agent_type) == (3.0, "agent_001", "Explore")
    assert helper.requests[0].output_types == ("text", "thinking")
    assert found.requests == (first, helper)


def test_times_that_the_source_did_not_record_are_none(write, session, call):
    request = call(0.0, 64, [[1, 1]])
    del request["api_time"], request["think_time"]
    (found,) = read_sessions(write([session("a", [request])]))
    assert (found.calls[0].api_s, found.calls[0].think_s) == (None, None)


def test_duplicates_are_dropped_only_on_request(write, session, call):
    lines = [
        session("a", [call(0, 64, [[1, 1]])]),
        session("b", [call(0, 64, [[1, 1]])], exact_duplicate=True),
    ]
    path = write(lines)
    assert [found.id for found in read_sessions(path)] == ["a", "b"]
    assert [found.id for found in read_sessions(path, drop_duplicates=True)] == ["a"]


def test_63_bit_ids_come_back_uncut(write, session, call):
    (found,) = read_sessions(write([session("a", [call(0, 128, [[LARGEST - 1, 2]])])]))
    assert found.calls[0].runs == ((LARGEST - 1, 2),)
    line = {"timestamp": 0, "input_length": 600, "output_length": 1, "hash_ids": [LARGEST, 2**32]}
    (request,) = read_mooncake(write([line], "m.jsonl"))
    assert request.hash_ids == (LARGEST, 2**32)


def test_gzip_and_plain_files_read_alike_whatever_their_names(write, tmp_path, session, call):
    line = session("a", [call(0, 64, [[1, 1]])])
    plain, packed = write([line]), write([line], "trace.jsonl.gz")
    renamed = tmp_path / "renamed.txt"
    renamed.write_bytes(packed.read_bytes())
    assert list(read_sessions(plain)) == list(read_sessions(packed)) == list(read_sessions(renamed))


def test_parsing_needs_no_file(session, call):
    lines = [(Place("memory", 1), json.dumps(session("a", [call(0, 64, [[1, 1]])])))]
    assert [found.id for found in parse_sessions(lines)] == ["a"]


def test_reading_is_lazy_and_stops_where_the_reader_stops(write):
    good = {"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [1]}
    assert next(read_mooncake(write([good, "not json"]))).input_length == 5


def test_a_byte_order_mark_and_blank_lines_do_no_harm(write):
    good = {"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [1]}
    assert len(list(read_mooncake(write(["\ufeff" + json.dumps(good), "", good, "  "])))) == 2


def test_mooncake_traces_of_other_block_sizes_are_read_when_it_is_named(write):
    line = {"timestamp": 0, "input_length": 100, "output_length": 1, "hash_ids": [1, 2]}
    assert next(read_mooncake(write([line]), block_size=64)).hash_ids == (1, 2)


def bailian(chat, parent, ids, t=0.0):
    line = {"chat_id": chat, "parent_chat_id": parent, "timestamp": t, "input_length": 16 * len(ids)}
    return line | {"output_length": 3, "type": "text", "turn": 1, "hash_ids": ids}


def test_bailian_ids_are_chained_so_that_equal_content_after_another_prefix_is_no_hit(write):
    same_tail, other_head = bailian(1, -1, [7, 8, 9]), bailian(2, -1, [5, 8, 9])
    first, second, third = read_bailian(write([same_tail, other_head, bailian(3, 1, [7, 8, 2**64 - 1])]))
    assert first.hash_ids[1:] == second.hash_ids[1:]
    assert not set(first.chain_ids) & set(second.chain_ids)
    assert third.chain_ids[:2] == first.chain_ids[:2]
    assert third.chain_ids[2] not in first.chain_ids + second.chain_ids
    assert third.hash_ids[2] == 2**64 - 1


def test_azure_times_keep_their_seventh_digit_and_their_zone(write):
    rows = ["TIMESTAMP,ContextTokens,GeneratedTokens", "1970-01-01 00:00:01.0000001,4808,10"]
    rows += ["1970-01-01 02:00:01.000001+02:00,5,6", "1970-01-01T00:00:02Z,7,8"]
    stamps = [request.timestamp_ns for request in read_azure(write(rows, "azure.csv"))]
    assert stamps == [1_000_000_100, 1_000_001_000, 2_000_000_000]


def test_both_editions_of_burstgpt_are_read(write):
    first = [
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
        "5,ChatGPT,472,18,490,API log",
    ]
    second = ["Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type"]
    second += ["5.5,12,1.25,GPT-4,472,0,472,Conversation log"]
    (old,) = read_burstgpt(write(first, "old.csv"))
    (new,) = read_burstgpt(write(second, "new.csv"))
    assert (old.timestamp_s, old.session_id, old.elapsed_s, old.total_tokens) == (5.0, "", None, 490)
    assert (new.timestamp_s, new.session_id, new.elapsed_s, new.response_tokens) == (5.5, "12", 1.25, 0)


def test_every_format_is_told_from_its_first_line(write, session, call):
    firsts = {
        "claude-code": [session("a", [call(0, 64, [[1, 1]])])],
        "mooncake": [{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [1]}],
        "bailian": [bailian(1, -1, [7])],
        "azure": ["TIMESTAMP,ContextTokens,GeneratedTokens", "2023-11-16 18:17:03,1,2"],
        "burstgpt": [
            "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
            "5,G,4,1,5,API log",
        ],
        "vidur": ["arrived_at,num_prefill_tokens,num_decode_tokens,pd_ratio", "0.3,10,5,2.0"],
        "ragpulse": [
            {"timestamp": "82", "input_length": 9, "output_length": 2, "hash_ids": {"user_input": [7]}}
        ],
        "tracelab": ["session_id,arrival_time,prefix_len,input_len,output_len", "s1,0.0,0,12,3"],
        "sharegpt": [{"id": "a", "conversations": [{"from": "human", "value": "hi"}]}],
        "libcachesim": ["# time,obj_id,obj_size,next_access_vtime", "0,a,4096,-1"],
        "kv-events": [{"ts": 1.5, "events": [{"type": "BlockStored", "block_hashes": [7]}]}],
        "lab": [
            {"format": "kv-cache-rl trace", "version": 1, "kind": "requests", "block_tokens": 16},
            {"time_s": 1.5, "sequence": 2, "input_tokens": 16, "output_tokens": 8, "runs": [[0, 1]]},
        ],
    }
    assert set(firsts) | {"oracle-general"} == set(FORMATS)
    for name, lines in firsts.items():
        path = write(lines, f"{name}.gz")
        assert detect(path) == name
        assert list(read(path)) == list(FORMATS[name].read(path))


def test_a_call_of_a_tool_is_an_answer_and_a_system_text_is_read(write):
    turns = [("human", "w" * 40), ("function_call", "c" * 20), ("observation", "o" * 12), ("gpt", "a" * 8)]
    talk = [{"from": side, "value": value} for side, value in turns]
    path = write([{"conversations": talk, "system": "s" * 16}])
    assert [(one.input_tokens, one.output_tokens) for one in read(path)] == [(14, 5), (22, 2)]


def test_rounds_follow_each_other_by_their_numbers(write):
    head = "session_id,arrival_time,round_idx,prefix_len,input_len,output_len,tool_wait_after_ms"
    rounds = ["s,0.0,0,0,1200,80,900", "s,,1,1280,300,60,500", "s,,2,1640,100,60,0"]
    in_order, mixed = (
        [(one.time_s, one.input_tokens) for one in read(write([head, *lines], name))]
        for lines, name in ((rounds, "a.csv"), ([rounds[2], rounds[0], rounds[1]], "b.csv"))
    )
    assert [tokens for _, tokens in in_order] == [1200, 1580, 1740]
    assert mixed == in_order
    with pytest.raises(TraceError, match=r"line 3, field 'round_idx'"):
        list(read(write([head, rounds[0], rounds[1].replace(",1,", ",,")], "c.csv")))


runs = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 5)), max_size=5).map(tuple)


@given(runs, runs)
def test_shared_blocks_of_runs_equal_those_of_the_written_out_ids(left, right):
    written = [[first + step for first, length in side for step in range(length)] for side in (left, right)]
    expected = 0
    for one, other in zip(*written, strict=False):
        if one != other:
            break
        expected += 1
    assert shared_blocks(left, right) == expected

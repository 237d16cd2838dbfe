"""The forms in which people have traces: each is read as what it means, told from the file or from
an option.
"""

import bz2
import gzip
import json
import lzma
import struct

import pytest

from kv_cache_rl.traces import (
    Reading,
    TraceError,
    detect,
    read,
    read_bailian,
    read_burstgpt,
    read_mooncake,
    read_sessions,
    requests_of,
)
from kv_cache_rl.traces.blocks import Sizes
from kv_cache_rl.traces.calls import call_seconds
from kv_cache_rl.traces.demand import demand_of
from kv_cache_rl.traces.reading import located

REQUEST = {"t": 0.0, "type": "s", "model": "m", "in": 200, "out": 9, "hash_ids": [1, 2, 3]}
REQUEST |= {"input_types": ["text"], "output_types": ["tool_use"], "stop": ""}


def published(name="trace_0001", **changes):
    """A session as kv-cache-tester publishes it: no duplicate flag, ids one by one."""
    second = REQUEST | {"t": 5.0, "in": 330, "hash_ids": [1, 2, 3, 90, 91]}
    return {"id": name, "models": ["m"], "block_size": 64, "requests": [REQUEST, second]} | changes


def rows(size, lengths, count=lambda tokens, size: -(-tokens // size), **more):
    """Mooncake lines of prompts that share nothing, in blocks of a size."""
    lines, at = [], 0
    for time, tokens in enumerate(lengths):
        ids = list(range(at, at + count(tokens, size)))
        at += len(ids)
        lines.append({"timestamp": time, "input_length": tokens, "output_length": 1, "hash_ids": ids} | more)
    return lines


def test_a_published_session_is_read_from_one_line_many_lines_or_a_folder(tmp_path):
    one, two = tmp_path / "trace_0001.json", tmp_path / "trace_0002.json"
    one.write_text(json.dumps(published()))
    two.write_text(json.dumps(published("trace_0002", requests=[REQUEST | {"out": 10}]), indent=2))
    (tmp_path / "cache_hit_rates.txt").write_text("not a trace")
    assert detect(one) == detect(two) == detect(tmp_path) == "claude-code"
    (first,), (second,) = read_sessions(one), read_sessions(two)
    assert first.requests[1].runs == ((1, 3), (90, 2))
    assert (first.requests[0].input_types, first.requests[0].output_types) == (("text",), ("tool_use",))
    assert (first.exact_duplicate, first.tool_tokens, first.is_global) == (False, 0, False)
    assert list(read_sessions(tmp_path)) == [first, second]
    assert demand_of(tmp_path).prompts == [200, 330, 200]
    assert demand_of(tmp_path).histories == [0, 192, 0]


def test_sessions_of_any_block_size_tell_it_or_state_it(write):
    calls = [REQUEST | {"in": 32, "hash_ids": [1, 2]}, REQUEST | {"in": 100, "hash_ids": list(range(6))}]
    silent = published(requests=calls)
    del silent["block_size"]
    (found,) = read_sessions(write([silent]))
    assert found.block_size == 16
    with pytest.raises(TraceError, match="blocks of 64 tokens; leave out --block-size 16"):
        list(read_sessions(Reading(block_size=16).named(write([published()]))))


@pytest.mark.parametrize("inside", [False, True])
def test_runs_and_the_calls_of_sub_agents_tell_the_size_of_blocks_too(write, call, agent, session, inside):
    calls = [call(0.0, 64, [[1, 2]]), call(9.0, 96, [[1, 3]])]
    silent = session("a", [agent(0.0, calls)] if inside else calls)
    del silent["block_size"]
    (found,) = read_sessions(write([silent]))
    assert found.block_size == 32
    wrong = session("a", [call(0.0, 64, [[1, 2]])], block_size=64)
    with pytest.raises(
        TraceError, match=r"2 blocks, the input has 1 full ones of 64 tokens; .* --block-size"
    ):
        list(read_sessions(write([wrong])))


def test_what_a_session_does_not_say_is_not_asked_for(write, call, session):
    bare = call(0, 128, [[1, 2]], stop=None, api_time=None, think_time=None)
    del bare["it"], bare["ot"]
    line = session("a", [bare], models=None)
    for name in ("exact_duplicate", "hash_id_scope", "tool_tokens", "system_tokens"):
        del line[name]
    (found,) = read_sessions(write([line]))
    assert (found.calls[0].stop, found.calls[0].api_s, found.models) == ("", None, ())


def test_copies_of_sessions_count_in_no_command_and_are_counted(write, session, call):
    calls = [call(0, 64, [[1, 1]]), call(9, 128, [[1, 2]])]
    path = write(
        [
            session("a", calls),
            session("b", calls),
            session("c", [call(0, 64, [[7, 1]])], exact_duplicate=True),
        ]
    )
    found = demand_of(path)
    assert found.prompts == [64, 128]
    assert sum(found.left_out.values()) == 3


@pytest.mark.parametrize("size", [16, 64, 512, 1, 48, 1000])
@pytest.mark.parametrize("full_only", [False, True])
def test_the_block_size_is_the_one_for_which_every_line_agrees(write, size, full_only):
    lengths = [
        7 * size + 1,
        40 * size - 1,
        90 * size,
        400 * size + size // 2,
        999 * size - 1,
        1000 * size + 1,
    ]
    path = write(rows(size, lengths, (lambda n, b: n // b) if full_only else (lambda n, b: -(-n // b))))
    found = requests_of(path)
    assert found.block_tokens == size
    assert [len(one.ids) for one in found.arrivals] == [
        tokens // size if full_only else -(-tokens // size) for tokens in lengths
    ]


def test_the_size_is_asked_for_where_many_fit_and_the_line_is_named_where_none_does(write):
    path = write(rows(100, [1000]))
    assert Sizes().choose(512).size == 512
    with pytest.raises(
        TraceError, match=r"fit every block size from 91 to 111 tokens; name it with --block-size"
    ):
        requests_of(path)
    assert requests_of(path, Reading(block_size=100)).block_tokens == 100
    found = requests_of(write(rows(64, [4 * 64 + 1])))
    assert found.block_tokens == 64
    assert "blocks of 64 tokens, the only power of two from 43 to 64, which its lines fit" in found.notes[0]
    torn = write([*rows(16, [160, 320, 4000]), {"timestamp": 9, "input_length": 999, "hash_ids": [1]}])
    with pytest.raises(
        TraceError, match=r"line 1, field 'hash_ids': 10 ids for 160 tokens, expected 1 blocks of 512"
    ):
        list(requests_of(torn).arrivals)
    with pytest.raises(
        TraceError, match=r"line 4, field 'hash_ids': 1 ids for 999 tokens, expected 63 blocks of 16"
    ):
        list(requests_of(torn, Reading(block_size=16)).arrivals)


def test_a_header_record_states_the_block_size(write):
    path = write([{"type": "metadata", "block_size": 64}, *rows(64, [64])])
    assert requests_of(path).block_tokens == 64
    assert detect(path) == "mooncake"


def test_times_are_numbers_in_the_unit_that_is_said(write):
    lines = [
        line | {"timestamp": at} for at, line in zip((0.25, 1500, 2000.5), rows(512, [9, 9, 9]), strict=True)
    ]
    path = write(lines)
    assert [one.time_s for one in requests_of(path).arrivals] == [0.00025, 1.5, 2.0005]
    assert [one.time_s for one in requests_of(path, Reading(time_unit="s")).arrivals] == [0.25, 1500, 2000.5]
    assert [one.timestamp_ms for one in read_mooncake(f"{path}#time_unit=us")] == [0.00025, 1.5, 2.0005]


def test_ids_are_names(write):
    line = {"timestamp": 0, "input_length": 1100, "output_length": 1}
    ids = ["a", 2**64 - 1, -5], ["a", 2**64 - 1, 7], [7, "7", "a"]
    found = [one.hash_ids for one in read_mooncake(write([line | {"hash_ids": one} for one in ids]))]
    assert found[0][:2] == found[1][:2] and found[0][2] != found[1][2]
    assert found[2] == (7, found[2][1], found[0][0]) and found[2][1] != 7
    assert len({*found[0], *found[1], *found[2]}) == 5


def test_the_turns_of_a_session_start_their_delay_after_the_turn_before(write):
    turn = {"input_length": 600, "output_length": 58, "hash_ids": [1, 2]}
    lines = [
        turn | {"session_id": "a", "timestamp": 0},
        turn | {"session_id": "a", "delay": 1500.5, "hash_ids": [1, 3]},
        turn | {"session_id": "b", "timestamp": 2000.0, "hash_ids": [7, 8]},
    ]
    found = list(requests_of(write(lines)).arrivals)
    assert [one.time_s for one in found] == [0.0, 2.0, pytest.approx(call_seconds(58) + 1.5005)]
    assert [one.session for one in found] == ["a", "b", "a"]


def test_fields_that_a_command_does_not_read_may_be_missing(write):
    lengths = write([{"timestamp": at, "input_length": 9, "output_length": 2} for at in range(3)])
    assert demand_of(lengths).prompts == [9, 9, 9] and demand_of(lengths).histories == []
    with pytest.raises(TraceError, match="line 1: the request names no blocks, which the lab needs"):
        list(requests_of(lengths).blocks("the lab"))
    blocks = write([{"timestamp": 0, "input_length": 9, "hash_ids": [1]}], "blocks.jsonl")
    assert [one.ids for one in requests_of(blocks).blocks("the lab")] == [(1,)]
    with pytest.raises(TraceError, match="line 1, field 'output_length': the request has no output length"):
        demand_of(blocks)


def test_prompts_and_outputs_of_no_tokens_are_requests(write):
    lines = rows(512, [600, 0, 600])
    assert demand_of(write(lines)).prompts == [600, 0, 600]


ONE = '{"timestamp": 0, "input_length": 5, "hash_ids": [1]}'
TWO = '{"timestamp": 1, "input_length": 6, "hash_ids": [2]}'


@pytest.mark.parametrize(
    "text",
    [
        f"[{ONE}, {TWO}]",
        f"[\n{ONE},\n{TWO}\n]".replace('"hash_ids": [', '\n "hash_ids": [\n'),
        f"{ONE}\n{TWO}".replace('{"', '{\n"').replace(", ", ",\n"),
        f"# made by hand\n// really\n{ONE},\n{TWO},",
        f"{ONE}\r{TWO}",
        f"{ONE}\r\n{TWO}".replace("{", '{"note": "a } b ] \\\\\\" {", '),
    ],
)
def test_objects_are_found_however_they_are_laid_out(tmp_path, text):
    path = tmp_path / "t.json"
    path.write_bytes(text.encode())
    assert [one.input_length for one in read_mooncake(path)] == [5, 6]


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ('[{"timestamp": 0, "input_length": 5}, 7]', 1, "expected a JSON object, got '7'"),
        ('[\n{"timestamp": 0, "input_length": 5},\n{"timestamp": 1', 3, "ends before its brackets close"),
        ('[\n{"timestamp": 0, "input_length": 5},\n{"timestamp": x}\n]', 3, "the line is not JSON"),
        ('[{"timestamp": 0, "input_length": 5}', 1, "ends before its brackets close"),
    ],
)
def test_a_list_that_is_damaged_is_refused_with_its_line(tmp_path, text, line, problem):
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(TraceError) as caught:
        list(read_mooncake(path))
    assert (caught.value.line, problem in caught.value.problem) == (line, True)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_packed_files_are_told_from_their_first_bytes(tmp_path, pack):
    path = tmp_path / "named_as_nothing"
    path.write_bytes(pack(json.dumps(published()).encode()))
    assert detect(path) == "claude-code"
    path.write_bytes(pack(json.dumps(published()).encode())[:-20])
    with pytest.raises(TraceError, match="damaged or cut off"):
        list(read(path))


def test_zstandard_is_unpacked_where_its_package_is_there_and_asked_for_where_not(tmp_path):
    path = tmp_path / "t.jsonl.zst"
    try:
        import zstandard
    except ImportError:
        path.write_bytes(b"\x28\xb5\x2f\xfd\x04\x00abc")
        with pytest.raises(TraceError, match=r"needs the package zstandard; install it .*kv-cache-rl\[zst\]"):
            detect(path)
        return
    path.write_bytes(zstandard.compress(json.dumps(published()).encode()))
    assert detect(path) == "claude-code"


def bailian(chat, **more):
    line = {"chat_id": chat, "timestamp": float(int(chat)), "input_length": 20, "output_length": 3}
    return line | {"hash_ids": [1, 2 + int(chat)]} | more


def test_a_bailian_root_may_leave_out_its_parent_and_ids_may_be_texts(write):
    lines = [
        bailian(1),
        bailian("2", parent_chat_id="1"),
        bailian(3, parent_chat_id=None),
        bailian(4, parent_chat_id=2),
    ]
    first, *_, last = read_bailian(write(lines))
    assert (first.parent_chat_id, first.kind, first.turn, last.parent_chat_id) == (-1, "", 0, 2)
    sessions = [one.session for one in requests_of(write(lines)).arrivals]
    assert sessions[0] == sessions[1] == sessions[3] != sessions[2]
    assert {one.session for one in requests_of(write([bailian(1), bailian(2)])).arrivals} == {""}


BURST = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type"


def test_the_rows_of_a_burstgpt_session_continue_each_other(write):
    lines = [BURST, "0,,1,G,50,9,59,API log", "5,s,1,G,100,20,120,Conversation log"]
    lines += ["7,s,nan,G,150,0,150,Conversation log", "9,s,,G,160,30,190,Conversation log"]
    lines += ["11,s,-1,G,190,5,195,Conversation log", "12,s,1,G,40,5,45,Conversation log"]
    found = demand_of(write(lines, "burst.csv"))
    assert found.histories == [0, 0, 120, 190, 0], "whole where it fits; nothing where the context shrank"
    assert found.failed == 1
    assert [one.elapsed_s for one in read_burstgpt(write(lines, "burst.csv"))] == [1, 1, None, None, None, 1]


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("Timestamp,Request tokens,Response tokens", "1.5e1,1506.0,2e1"),
        ("timestamp;request_tokens;response tokens", "15,0;1506;20"),
        (",Timestamp,Request.tokens,Response.tokens", "7,15,1506,20.0"),
        ('"Timestamp"\t"Request tokens"\t"Response tokens"', '"15"\t"1506"\t"20"'),
    ],
)
def test_tables_after_pandas_r_and_excel(write, header, row):
    (one,) = read_burstgpt(write([header, row], "t.csv"))
    assert (one.timestamp_s, one.request_tokens, one.response_tokens) == (15.0, 1506, 20)


def test_a_point_that_may_separate_thousands_is_asked_about(write):
    path = write(["Timestamp;Request tokens;Response tokens", "15,5;472;18", "45,25;2.000;230"], "burst.csv")
    with pytest.raises(TraceError, match=r"line 3, field .*'2\.000' may be 2 or 2000; write whole numbers"):
        list(read_burstgpt(path))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_excels_text_is_read_in_its_encoding(tmp_path, encoding):
    path = tmp_path / "t.csv"
    path.write_bytes("TIMESTAMP;ContextTokens;GeneratedTokens\r\n16/11/2023 18:00;1;2\r\n".encode(encoding))
    with pytest.raises(
        TraceError, match=r"line 2, field 'TIMESTAMP': expected a date and time, got '16/11/2023"
    ):
        list(read(path))
    path.write_bytes("TIMESTAMP;ContextTokens;GeneratedTokens\r\n11/16/2023 6:00 PM;1;2\r\n".encode(encoding))
    (one,) = read(path)
    assert one.timestamp_ns == 1_700_157_600 * 10**9


@pytest.mark.parametrize(
    "stamp",
    [
        "2023-11-16 18:00:00",
        "2023-11-16T18:00:00Z",
        "2023-11-16 18:00:00+0000",
        "2023-11-16 20:00:00+02",
        "2023-11-16 13:00:00.000000-05:00",
        "2023/11/16 18:00",
        "2023-11-16 18:00:00 UTC",
        "1700157600",
        "1700157600.0",
        "1.7001576e9",
        "1700157600000",
        "1700157600000000000",
    ],
)
def test_a_moment_is_the_same_however_it_is_written(write, stamp):
    (one,) = read(write(["timestamp,contexttokens,generatedtokens", f"{stamp},1.0,2"], "t.csv"))
    assert one.timestamp_ns == 1_700_157_600 * 10**9


def test_the_binary_format_of_libcachesim_is_told_from_its_records(tmp_path):
    path = tmp_path / "w.bin"
    path.write_bytes(
        b"".join(
            struct.pack("<IQIq", *one)
            for one in ((5, 2**63 + 1, 10, 2), (6, 8, 20, -1), (9, 2**63 + 1, 10, -1))
        )
    )
    assert detect(path) == "oracle-general"
    assert [(one.time_s, one.object, one.bytes) for one in read(path)] == [
        (5, 2**63 + 1, 10),
        (6, 8, 20),
        (9, 2**63 + 1, 10),
    ]
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(TraceError, match="it ends inside record 3"):
        list(read(path))


def test_conversations_have_estimated_lengths_and_say_so(write):
    said = [{"from": "human", "value": "a" * 40}, {"from": "gpt", "value": "b" * 20}]
    said += [{"from": "human", "value": "c" * 40}, {"from": "gpt", "value": "d" * 8}]
    found = demand_of(write([json.dumps([{"id": "x", "conversations": said}])], "s.json"))
    assert (found.prompts, found.outputs, found.histories) == ([10, 25], [5, 2], [0, 15])
    assert "no tokenizer was asked" in found.notes[0] and found.rate is None


def test_ragpulse_times_are_texts_and_its_ids_no_blocks(write):
    line = {"timestamp": "82", "input_length": 9, "output_length": 2, "hash_ids": {"user_input": [7]}}
    (one,) = read(write([line | {"session_id": "s"}]))
    assert (one.time_s, one.input_tokens, one.ids, one.session) == (82.0, 9, None, "s")


def test_a_limit_reads_no_further_and_travels_behind_the_name(write):
    path = write([*rows(512, [9, 9, 9]), "not json"])
    assert [one.input_tokens for one in requests_of(path, Reading(limit=2)).arrivals] == [9, 9]
    assert located(f"{path}#limit=2,block_size=16") == (str(path), Reading(block_size=16, limit=2))
    assert located("plain#name.jsonl") == ("plain#name.jsonl", Reading())
    assert demand_of(Reading(limit=1).named(path)).requests == 1
    for bad, words in (
        ("limit=0", "a number from 1 on"),
        ("limit=x", "cannot be read"),
        ("time_unit=h", "use one of"),
    ):
        with pytest.raises(TraceError, match=words):
            detect(f"{path}#{bad}")


def test_what_stands_around_a_table_does_no_harm(write):
    table = [
        "# from a notebook, with commas",
        "sep=;",
        "Timestamp;Request tokens;Response tokens",
        "5;6;7",
        ";;",
    ]
    path = write(table, "t.csv")
    assert detect(path) == "burstgpt"
    assert [one.request_tokens for one in read_burstgpt(path)] == [6]


def test_an_option_that_says_nothing_about_a_format_is_refused(write):
    azure = write(["TIMESTAMP,ContextTokens,GeneratedTokens", "5,1,2"], "a.csv")
    with pytest.raises(TraceError, match="azure format names no blocks of one size; leave out --block-size"):
        demand_of(azure, Reading(block_size=16))
    with pytest.raises(
        TraceError, match="claude-code format has times in a unit of its own; leave out --time-unit"
    ):
        detect(Reading(time_unit="ms").named(write([published()])))


def test_a_name_may_hold_any_sign(write, tmp_path):
    path = tmp_path / "run#limit=2"
    path.write_bytes(write(rows(512, [9, 9, 9])).read_bytes())
    assert len(list(read_mooncake(path))) == 3
    assert len(list(read_mooncake(f"{path}#limit=1"))) == 1


def test_a_sub_agent_that_called_no_model_is_none(write, session, call, agent):
    (found,) = read_sessions(write([session("a", [call(0, 64, [[1, 1]]), agent(1, [])])]))
    assert (len(found.calls), found.sub_agents) == (1, ())


@pytest.mark.parametrize(("unit", "perhaps"), [(10**18, "ns"), (10**15, "us"), (10**12, ""), (10**9, "s")])
def test_times_since_1970_in_another_unit_are_noticed(write, unit, perhaps):
    line = {"input_length": 600, "output_length": 1, "hash_ids": [1, 2]}
    path = write([line | {"timestamp": 17 * unit // 10 + k * unit // 10**9} for k in range(20)])
    found = requests_of(path)
    assert len(list(found.arrivals)) == 20
    assert [note.rpartition("--time-unit ")[2] for note in found.notes] == ([perhaps] if perhaps else [])
    if perhaps:
        given = requests_of(path, Reading(time_unit=perhaps))
        assert [one.time_s for one in given.arrivals][-1] == pytest.approx(1.7e9 + 19) and not given.notes

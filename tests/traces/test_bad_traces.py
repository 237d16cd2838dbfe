"""Every file that cannot be used is refused with its place and the remedy."""

import gzip
import json
import os
from pathlib import Path

import pytest

from kv_cache_rl.traces import (
    TraceError,
    detect,
    read,
    read_azure,
    read_bailian,
    read_mooncake,
    read_sessions,
)
from kv_cache_rl.traces.fields import FROM_TABLE, ROWS

MOONCAKE = {"timestamp": 5, "input_length": 600, "output_length": 1, "hash_ids": [1, 2]}
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens"
BURSTGPT = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"


def refusal(reader, path):
    with pytest.raises(TraceError) as caught:
        list(reader(path))
    error = caught.value
    assert isinstance(error, ValueError)
    assert str(error).startswith(str(path))
    assert error.remedy and str(error).endswith(error.remedy)
    return error


@pytest.mark.parametrize(
    ("field", "value", "named", "text"),
    [
        ("in", "128", "in", "expected an integer, got '128'"),
        ("in", True, "in", "expected an integer, got True"),
        ("in", 128.5, "in", "expected an integer, got 128.5"),
        ("in", -1, "in", "must be from 0"),
        ("out", 1.5, "out", "expected an integer, got 1.5"),
        ("t", -0.5, "t", "got -0.5, must be from 0"),
        ("t", None, "t", "expected a number, got None"),
        ("api_time", float("nan"), "api_time", "got nan"),
        ("api_time", 1e9, "api_time", "must be from 0 to 1e+06 s"),
        ("stop", 3, "stop", "expected a string, got 3"),
        ("ot", "text", "ot", "expected a list"),
        ("it", ["text", 4], "it[1]", "expected a string, got 4"),
        ("type", "x", "type", "unknown type 'x'"),
        ("h", [[1, 3]], "h", "runs cover 3 blocks, the input has 2 full ones"),
        ("h", [[1, 2, 3]], "h[0]", "expected [first id, length]"),
        ("h", [[1, 0], [1, 2]], "h[0][1]", "must be from 1"),
        ("h", [[2**63, 2]], "h[0][0]", "(64 bits)"),
        ("h", [[2**63 - 1, 2]], "h[0]", "more than 63 bits"),
    ],
)
def test_a_bad_field_of_a_request_is_named(write, session, call, field, value, named, text):
    line = session("b", [call(0, 128, [[1, 2]]) | {field: value}])
    error = refusal(read_sessions, write([session("a", [call(0, 128, [[1, 2]])]), line]))
    assert error.line == 2
    assert error.field == f"requests[0].{named}"
    assert text in str(error)


@pytest.mark.parametrize("field", ["t", "type", "in", "out", "h"])
def test_a_missing_field_of_a_request_is_named(write, session, call, field):
    request = call(0, 128, [[1, 2]])
    del request[field]
    error = refusal(read_sessions, write([session("a", [request])]))
    assert (error.line, error.field) == (1, f"requests[0].{field}")
    assert "missing" in error.problem


@pytest.mark.parametrize(
    ("change", "named", "text"),
    [
        ({"hash_id_scope": "planet"}, "hash_id_scope", "unknown scope 'planet'"),
        ({"block_size": 0}, "block_size", "must be from 1"),
        ({"exact_duplicate": 0}, "exact_duplicate", "expected true or false"),
        ({"models": [1]}, "models[0]", "expected a string"),
        ({"requests": []}, "requests", "the list is empty"),
        ({"requests": [5]}, "requests[0]", "expected an object"),
        ({"id": None}, "id", "expected a string"),
    ],
)
def test_a_bad_field_of_a_session_is_named(write, session, call, change, named, text):
    error = refusal(read_sessions, write([session("a", [call(0, 128, [[1, 2]])]) | change]))
    assert error.field == named
    assert text in str(error)


def test_requests_out_of_order_are_refused_at_every_level(write, session, call, agent):
    ahead = [call(9, 64, [[1, 1]]), call(8, 64, [[1, 1]])]
    assert refusal(read_sessions, write([session("a", ahead)])).field == "requests[1].t"
    assert (
        refusal(read_sessions, write([session("a", [agent(0, ahead)])])).field == "requests[0].requests[1].t"
    )


def test_sub_agents_do_not_nest_twice(write, session, call, agent):
    error = refusal(read_sessions, write([session("a", [agent(0, [agent(0, [call(0, 64, [[1, 1]])])])])]))
    assert error.field == "requests[0].requests[0].type"
    assert "a sub-agent inside a sub-agent" in error.problem


def test_a_session_id_that_comes_twice_is_refused(write, session, call):
    line = session("a", [call(0, 64, [[1, 1]])])
    assert "already stands on line 1" in str(refusal(read_sessions, write([line, line])))


@pytest.mark.parametrize(
    ("change", "field", "text"),
    [
        ({"timestamp": -1}, "timestamp", "must be from 0"),
        ({"timestamp": 4}, "timestamp", "4 ms is before 5 ms"),
        ({"timestamp": "5"}, "timestamp", "expected a number, got '5'"),
        ({"hash_ids": [1]}, "hash_ids", "1 ids for 600 tokens, expected 2 blocks of 512"),
        ({"hash_ids": [1, None]}, "hash_ids[1]", "expected an id, got None"),
        ({"hash_ids": [1, True]}, "hash_ids[1]", "expected an id, got True"),
        ({"hash_ids": 7}, "hash_ids", "expected a list"),
        ({"input_length": 0}, "hash_ids", "2 ids for 0 tokens"),
        ({"input_length": -1}, "input_length", "must be from 0"),
    ],
)
def test_a_bad_mooncake_line_is_refused(write, change, field, text):
    error = refusal(read_mooncake, write([MOONCAKE, MOONCAKE | change]))
    assert (error.line, error.field) == (2, field)
    assert text in str(error)


def test_a_bailian_line_with_too_few_ids_or_an_earlier_time_is_refused(write):
    line = {"chat_id": 1, "parent_chat_id": -1, "timestamp": 5.0, "input_length": 40, "output_length": 1}
    line |= {"type": "text", "turn": 1, "hash_ids": [1, 2, 3]}
    assert refusal(read_bailian, write([line | {"hash_ids": [1]}])).field == "hash_ids"
    assert refusal(read_bailian, write([line, line | {"timestamp": 4.0}])).field == "timestamp"
    assert refusal(read_bailian, write([line | {"hash_ids": [1, 2, [3]]}])).field == "hash_ids[2]"


@pytest.mark.parametrize(
    ("rows", "line", "field"),
    [
        ([AZURE, "yesterday,1,2"], 2, "TIMESTAMP"),
        ([AZURE, "2023-13-16 18:17:03,1,2"], 2, "TIMESTAMP"),
        ([AZURE, "2023-11-16 18:17:03,1,2", "2023-11-16 18:17:02,1,2"], 3, "TIMESTAMP"),
        ([AZURE, "2023-11-16 18:17:03,-1,2"], 2, "ContextTokens"),
        ([AZURE, "2023-11-16 18:17:03,1"], 2, ""),
        ([AZURE], 0, ""),
        ([BURSTGPT, "-5,G,1,2,3,API log"], 2, "Timestamp"),
        ([BURSTGPT, "5,G,1,2,3,API log", "4,G,1,2,3,API log"], 3, "Timestamp"),
        ([BURSTGPT, "5,G,1.5,2,3,API log"], 2, "Request tokens"),
    ],
)
def test_a_bad_row_of_a_table_is_refused(write, rows, line, field):
    error = refusal(read, write(rows, "table.csv"))
    assert (error.line, error.field) == (line, field)


def test_a_table_without_a_column_is_refused(write):
    error = refusal(read_azure, write(["TIMESTAMP,ContextTokens", "2023-11-16 18:17:03,1"]))
    assert (error.line, error.field) == (1, "GeneratedTokens")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"timestamp": 5, "input_le', "the line is cut off"),
        ('{"timestamp": }', "the line is not JSON"),
        ("[1, 2]", "expected a JSON object"),
        ("[" * 100_000, "the line"),
        ('{"timestamp": 1' + "0" * 5000 + "}", "the line cannot be read"),
    ],
)
def test_a_line_that_is_no_json_object_is_refused(write, text, problem):
    error = refusal(read_mooncake, write([MOONCAKE, text]))
    assert error.line == 2
    assert problem in error.problem


COLUMNS = {
    "timestamp": {"0": 5},
    "input_length": {"0": 600},
    "output_length": {"0": 1},
    "hash_ids": {"0": [1]},
}
LISTS = {name: list(values.values()) for name, values in COLUMNS.items()}


@pytest.mark.parametrize("reader", [detect, read_mooncake])
def test_a_table_of_what_is_json_is_told_how_to_become_it(write, reader):
    """As pandas writes it by `to_csv`."""
    error = refusal(
        reader, write([",timestamp,input_length,output_length,hash_ids", '0,5,600,1,"[1, 2]"'], "t.csv")
    )
    assert (error.line, error.remedy) == (1, FROM_TABLE)


@pytest.mark.parametrize("columns", [COLUMNS, LISTS], ids=["to_json", "lists"])
def test_columns_in_one_object_are_told_to_become_rows(write, columns):
    error = refusal(read_mooncake, write([columns]))
    assert (error.field, error.remedy) == ("timestamp", ROWS)


def test_cut_off_and_damaged_gzip_data_are_refused(write, tmp_path):
    noise = [MOONCAKE | {"timestamp": at, "output_length": at * at % 7919} for at in range(5, 500)]
    whole = write(noise, "trace.gz").read_bytes()
    cut, damaged = tmp_path / "cut.gz", tmp_path / "damaged.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    damaged.write_bytes(whole[:200] + bytes(255 - byte for byte in whole[200:300]) + whole[300:])
    for path in (cut, damaged):
        error = refusal(read_mooncake, path)
        assert error.line > 0
        assert "damaged or cut off" in error.problem or "JSON" in error.problem or "UTF-8" in error.problem
    assert "damaged or cut off" in refusal(read_mooncake, cut).problem


@pytest.mark.parametrize("data", [b"", b"\n\n  \n", gzip.compress(b"", mtime=0)])
def test_an_empty_file_is_refused(tmp_path, data):
    path = tmp_path / "empty"
    path.write_bytes(data)
    for reader in (read_mooncake, detect):
        assert "the file is empty" in str(refusal(reader, path))


def test_bytes_that_are_not_utf_8_are_refused(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes(json.dumps(MOONCAKE).encode() + b'\n{"id": "caf\xe9"}\n')
    error = refusal(read_mooncake, path)
    assert error.line == 2
    assert "byte 0xe9 at column 12 is not UTF-8" in error.problem


def test_a_directory_a_pipe_and_a_missing_file_are_refused(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "directory" in refusal(detect, tmp_path).problem
    assert "not a regular file" in refusal(detect, pipe).problem
    assert "no such file" in refusal(detect, tmp_path / "nowhere").problem


def test_a_link_that_leads_nowhere_is_named_and_not_left_out_of_its_folder(write, session, call, tmp_path):
    write([session("a", [call(0, 64, [[1, 1]])])], "a.json")
    (tmp_path / "b.json").symlink_to("elsewhere.json")
    for path in (tmp_path, tmp_path / "b.json"):
        with pytest.raises(TraceError, match=r"b\.json: this is a link to a file that is not there"):
            list(read(path))


def test_a_file_that_may_not_be_read_is_refused(write, monkeypatch):
    path = write([MOONCAKE])

    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", refuse)
    error = refusal(read_mooncake, path)
    assert "no permission" in error.problem
    assert "chmod" in error.remedy


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("output_length", [MOONCAKE, MOONCAKE | {"output_length": 10**18}]),
        ("input_length", [MOONCAKE, {"timestamp": 5, "input_length": 10**18}]),
        ("GeneratedTokens", [AZURE, f"2023-11-16 18:17:03,1,{10**18}"]),
        ("Request tokens", [BURSTGPT, f"5,G,{10**18},2,3,API log"]),
    ],
)
def test_a_length_that_no_memory_holds_is_refused(write, name, lines):
    error = refusal(read, write(lines))
    assert (error.line, error.field) == (2, name) and "to 1000000000" in error.problem


@pytest.mark.parametrize("first", [{"version": 9}, "a,b,c", "plain words"])
def test_an_unknown_format_is_refused_with_the_list_of_known_ones(write, first):
    error = refusal(detect, write([first]))
    assert error.line == 1
    assert "claude-code, mooncake, bailian, azure, burstgpt" in str(error)


@pytest.mark.parametrize(
    "exponent", ["e999999999", "e9999999999999999999", "e-999999999", "e-9999999999999999999"]
)
def test_a_number_with_an_endless_exponent_is_refused_at_once(write, exponent):
    row = f"2023-11-16 18:17:03,1{exponent},10"
    error = refusal(read, write([AZURE, row], "a.csv"))
    assert (error.line, error.field) == (2, "ContextTokens")
    if "-" not in exponent:
        assert refusal(read, write([AZURE, f"1{exponent},9,10"], "b.csv")).field == "TIMESTAMP"
        assert refusal(read, write([BURSTGPT, f"1{exponent},G,4,1,5,API log"], "c.csv")).field == "Timestamp"


def test_sessions_glued_together_are_refused_where_the_clock_runs_back(write):
    rows = [MOONCAKE | {"timestamp": time, "session_id": name} for time, name in ((0, "a"), (900, "b"))]
    later = {key: value for key, value in MOONCAKE.items() if key != "timestamp"}
    delayed = [rows[0], later | {"session_id": "a", "delay": 90_000}, rows[1]]
    assert len(list(read_mooncake(write(delayed)))) == 3
    error = refusal(read_mooncake, write([*rows, *rows]))
    assert (error.line, error.field) == (3, "timestamp") and "0 ms is before 900 ms" in str(error)
    table = ["session_id,arrival_time,prefix_len,input_len,output_len,tool_wait_after_ms", "s,5,0,9,9,90000"]
    assert len(list(read(write([*table, "s,,9,9,9,0", "t,6,0,9,9,0"], "a.csv")))) == 3
    error = refusal(read, write([*table, "t,4,0,9,9,0"], "b.csv"))
    assert (error.line, error.field) == (3, "arrival_time")

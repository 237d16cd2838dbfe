"""What `traces show` counts is what a replay counts, and what is assumed or left out is said."""

import struct

import pytest

from kv_cache_rl.sim.hierarchy.traces.convert import convert
from kv_cache_rl.sim.hierarchy.traces.load import load_trace
from kv_cache_rl.traces import TraceError, detect, read, read_azure
from kv_cache_rl.traces.blocks import Sizes
from kv_cache_rl.traces.summary import summary_of

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens"
MOONCAKE = {"timestamp": 0, "input_length": 48, "output_length": 1, "hash_ids": [1, 2, 3]}


def test_blocks_that_sessions_share_count_once_as_in_a_replay(write, session, call):
    one = session("a", [call(0.0, 384, [[1, 6]])], hash_id_scope="global")
    two = session("b", [call(0.0, 448, [[1, 7]])], hash_id_scope="global")
    path = write([one, two])
    assert summary_of(path).blocks == load_trace(path, decode_writes=False).blocks == 7
    own = write([one | {"hash_id_scope": "local"}, two | {"hash_id_scope": "local"}])
    assert summary_of(own).blocks == load_trace(own, decode_writes=False).blocks == 13


def test_accesses_of_no_bytes_are_left_out_of_every_count_and_said(kv_out, write):
    path = write(["time,obj_id,obj_size", "0,a,4096", "1,b,4096", "2,a,9000", "3,c,0"], "l.csv")
    found, trace = summary_of(path), load_trace(path)
    assert (found.requests, found.blocks, found.block_accesses) == (trace.accesses, trace.blocks, 3)
    assert (trace.blocks, found.span_s, found.left_out) == (2, 2.0, {"accesses of no bytes": 1})
    assert trace.left_out == "1 accesses of no bytes"
    assert convert(path, kv_out) == (3, ["1 left out: accesses of no bytes"])


@pytest.fixture
def kv_out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "lab.jsonl"


def test_nothing_is_written_among_the_files_of_the_folder_that_is_read(tmp_path, write, session, call):
    folder = tmp_path / "sessions"
    folder.mkdir()
    write([session("a", [call(0.0, 384, [[1, 6]])])], "sessions/a.json")
    with pytest.raises(TraceError, match=r"lab\.jsonl would be read .* give an --out outside of it"):
        convert(folder, folder / "lab.jsonl")
    assert [path.name for path in folder.iterdir()] == ["a.json"]
    assert convert(folder, tmp_path / "lab.jsonl")[0] == 1


def test_a_size_that_fits_in_both_ways_of_counting_is_one_size():
    sizes = Sizes()
    for tokens, ids in ((48, 3), (32, 2), (64, 4)):
        sizes.narrow(tokens, ids)
    assert len(sizes.left) == 2
    chosen = sizes.choose(512)
    assert chosen.size == 16 and "the only power of two from 13 to 21" in chosen.note
    two = Sizes()
    two.narrow(100, 1)
    assert two.choose(10) is None


@pytest.mark.parametrize("size", [0, 1, 2**31, 2**32 - 1])
def test_an_access_of_any_size_is_one_of_libcachesims(tmp_path, size):
    path = tmp_path / "o.bin"
    path.write_bytes(struct.pack("<IQIq", 1, 7, size, -1))
    assert detect(path) == "oracle-general"
    assert [access.bytes for access in read(path)] == [size]


def test_a_binary_file_of_an_unknown_kind_is_read_under_the_format_that_its_user_names(write, tmp_path):
    path = tmp_path / "o.bin"
    path.write_bytes(struct.pack("<IQIq", 1, 7, 5, -2) + struct.pack("<IQIq", 9, 7, 5, -1))  # -2 is no time
    with pytest.raises(TraceError, match="kv-cache-rl traces convert --format oracle-general"):
        summary_of(path)
    assert summary_of(f"{path}#format=oracle-general").requests == 2


def test_a_column_that_stands_twice_is_refused(write):
    path = write([f"{AZURE},context tokens", "2023-11-16 18:17:03,1,2,3"], "a.csv")
    with pytest.raises(TraceError, match="line 1, field 'ContextTokens': the column stands twice"):
        list(read_azure(path))


def test_a_session_lasts_as_long_as_its_sub_agents(write, session, call, agent):
    path = write([session("a", [call(0.0, 64, [[1, 1]]), agent(5.0, [call(100.0, 64, [[9, 1]])])])])
    assert summary_of(path).span_s == 105.0


@pytest.mark.parametrize("times", [(5,), (5, 5, 5)])
def test_requests_of_one_moment_have_no_rate_for_a_plan(write, times):
    found = summary_of(write([MOONCAKE | {"timestamp": at} for at in times]))
    assert (found.span_s, found.rate_per_s) == (0.0, None)
    assert "its requests arrive at one moment: stability plan needs --rate R" in found.notes
    spread = summary_of(write([MOONCAKE | {"timestamp": at} for at in (1, 2)]))
    assert not [note for note in spread.notes if "--rate" in note]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ("9" * 5000, r"it holds a number of more than 4,300 digits\)"),
        ("1e400", "got a number beyond every float"),
    ],
)
def test_a_number_that_is_too_large_is_called_so(write, number, words):
    line = f'{{"timestamp": {number}, "input_length": 48, "output_length": 1, "hash_ids": [1]}}'
    with pytest.raises(TraceError, match=words) as refused:
        summary_of(write([line]))
    assert "sys." not in str(refused.value)


def test_a_prompt_shorter_than_a_block_may_list_no_ids(write, session, call):
    short = call(0.0, 40, [], out=5) | {"hash_ids": []}
    short.pop("h", None)
    found = summary_of(write([session("a", [short])]))
    assert (found.requests, found.input_tokens, found.block_accesses) == (1, 40, 0)


PAGES = {"format": "kv-cache-rl trace", "version": 1, "kind": "pages", "name": "x", "block_tokens": 16}


def test_a_page_that_is_no_number_is_named_by_what_looks_into_a_file_too(write):
    path = write([PAGES, {"step": 0, "page": [1]}])
    for look in (summary_of, load_trace):
        with pytest.raises(TraceError, match=r"line 2, field 'page': expected an integer, got \[1\]"):
            look(path)


def test_accesses_whose_clock_runs_back_are_refused_by_all_and_put_in_order_by_a_conversion(write, kv_out):
    table = write(["time,obj_id,obj_size", "5,a,4096", "1,b,4096", "2,a,4096"], "l.csv")
    pages = write([PAGES, *({"step": step, "page": page} for step, page in ((5, 1), (1, 2), (2, 1)))])
    for path in (table, pages):
        for look in (summary_of, load_trace):
            with pytest.raises(TraceError, match=r"line 3, field .*kv-cache-rl traces convert"):
                look(path)
        convert(path, kv_out)
        made = load_trace(kv_out)
        assert made.time_s.tolist() == [1.0, 2.0, 5.0]
        first, second, third = made.run_start.tolist()
        assert second == third != first, "the other page came first"


def test_requests_may_have_blocks_of_different_sizes(write, kv_out):
    head = PAGES | {"kind": "requests", "page_bytes": [4096, 1], "blocks": 2}
    path = write([head, {"time_s": 0, "runs": [[0, 2]]}, {"time_s": 0, "runs": [[0, 1]]}])
    assert summary_of(path).block_accesses == 3
    assert load_trace(path).page_bytes.tolist() == [4096, 1]
    convert(path, kv_out)
    assert load_trace(kv_out).page_bytes.tolist() == [4096, 1]


def test_page_accesses_keep_their_span_when_converted(write, kv_out):
    path = write(["time,obj_id,obj_size", "2,a,4096", "5,b,4096", "11,a,4096"], "l.csv")
    convert(path, kv_out)
    assert summary_of(path).span_s == summary_of(kv_out).span_s == 9.0

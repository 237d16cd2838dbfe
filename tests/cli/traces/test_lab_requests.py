"""The project's own files are read with all that they hold, by every command."""

import gzip
import json

import pytest

from kv_cache_rl.sim.hierarchy.traces.convert import convert
from kv_cache_rl.sim.hierarchy.traces.load import load_trace
from kv_cache_rl.traces import TraceError, cut_windows, requests_of
from kv_cache_rl.traces.demand import demand_of
from kv_cache_rl.traces.lab import written_whole
from kv_cache_rl.traces.runs import RunIds, runs_of

HEADER = {"format": "kv-cache-rl trace", "version": 1, "kind": "requests", "block_tokens": 16}


def conversation(sessions=()):
    """Three users of one shared beginning whose prompts grow by their answers, every 2 s a turn."""
    rows = []
    for turn in range(60):
        user, depth = turn % 3, turn // 3
        tokens = 16 * (4 + 2 * depth) + user
        ids = [0, 1, *range(1000 * (user + 1), 1000 * (user + 1) + -(-tokens // 16) - 2)]
        row = {"timestamp": 2000 * turn, "input_length": tokens, "output_length": 16, "hash_ids": ids}
        rows.append(row | ({"session_id": sessions[user]} if sessions else {}))
    return rows


@pytest.mark.parametrize("sessions", [(), ("a", "b", "c")])
def test_a_mooncake_file_and_its_conversion_give_the_same_numbers(kv, write, tmp_path, sessions):
    rows, out = write(conversation(sessions)), tmp_path / "lab.jsonl"
    convert(rows, out)
    said = []
    for path in (rows, out):
        demand = demand_of(path)
        replay = kv("hierarchy", "replay", path, "--capacity", 40, "--json").json
        served = kv("serving", "simulate", "--trace", path, "--ticks", 50, "--json").json
        windows = [
            [(one.context_tokens_at_start, one.prefix_tokens, one.turns) for one in window.sessions]
            for window in cut_windows(path, seed=1)
        ]
        numbers = {key: replay[key] for key in ("accesses", "requests") if key in replay}
        kept = {key: value for key, value in served.items() if isinstance(value, int | float)}
        said.append((demand.histories, demand.prompts, demand.rate, numbers, kept, windows))
    assert said[0] == said[1]
    assert sum(said[0][0]) > 0.5 * sum(said[0][1]) and said[0][4]


def test_a_share_is_of_the_blocks_that_were_read(kv, write, tmp_path):
    ids = [[1, 2], [1, 2], [3, 4], [1, 2], [5, 6], [7, 8]]
    rows = [
        {"timestamp": 1000 * at, "input_length": 1024, "output_length": 1, "hash_ids": pair}
        for at, pair in enumerate(ids)
    ]
    path, out = write(rows), tmp_path / "lab.jsonl"
    convert(path, out)
    for limit, capacity in (([], 4), (["--limit", 4], 2)):
        replay = ["hierarchy", "replay", "--policy", "lru", "--capacity", "50%", *limit, "--json"]
        first, second = (kv(*replay, one).json for one in (path, out))
        assert first["capacity"] == second["capacity"] == capacity
        assert first["hit_rate"] == second["hit_rate"]


def test_pages_of_unequal_sizes_keep_them_where_a_limit_leaves_some_out(write):
    header = {"format": "kv-cache-rl trace", "version": 1, "kind": "pages", "block_tokens": 16}
    lines = [{"step": at, "page": page} for at, page in enumerate([3, 1, 3, 0])]
    path = write([header | {"blocks": 5, "page_bytes": [10, 20, 30, 40, 50]}, *lines])
    whole, part = load_trace(path), load_trace(path, limit=3)
    assert (whole.blocks, whole.run_start.tolist()) == (5, [3, 1, 3, 0])
    assert (part.blocks, part.run_start.tolist(), part.page_bytes.tolist()) == (2, [1, 0, 1], [20, 40])


def test_an_answer_of_unknown_length_stays_unknown(kv, write, tmp_path):
    rows = [{"timestamp": at, "input_length": 10, "hash_ids": [1]} for at in (1, 2)]
    path, out = write([rows[0], rows[1] | {"output_length": 7}], "some.jsonl"), tmp_path / "lab.jsonl"
    convert(path, out)
    first, second = (json.loads(line) for line in out.read_text().splitlines()[1:])
    assert "output_tokens" not in first and second["output_tokens"] == 7
    assert load_trace(out).output_tokens.tolist() == load_trace(path).output_tokens.tolist() == [-1, 7]
    said = kv("stability", "plan", "--trace", out)
    assert said.code == 2 and "field 'output_tokens': the request has no output length" in said.err
    assert "add output_tokens to every line" in said.err


def test_blocks_of_the_own_format_are_what_the_plan_counts(write):
    line = {"input_tokens": 1024, "output_tokens": 1}
    same = [line | {"time_s": k, "sequence": k, "runs": [[0, 64]]} for k in range(10)]
    apart = [line | {"time_s": k, "sequence": 0, "runs": [[100 * k, 64]]} for k in range(10)]
    assert demand_of(write([HEADER, *same])).histories == [0] + 9 * [1024]
    assert demand_of(write([HEADER, *apart])).histories == 10 * [0]


def test_where_only_some_requests_name_blocks_the_others_keep_theirs(write, tmp_path):
    first, *rest = conversation()
    path, out = (
        write([{key: first[key] for key in first if key != "hash_ids"}, *rest]),
        tmp_path / "lab.jsonl",
    )
    count, notes = convert(path, out)
    assert count == 60 and notes == ["1 of 60 requests name no blocks: the hierarchy lab cannot replay them"]
    assert demand_of(path).histories == demand_of(out).histories
    with pytest.raises(TraceError, match="line 2, field 'runs': the request names no blocks"):
        load_trace(out)


@pytest.mark.parametrize("read", [load_trace, demand_of])
@pytest.mark.parametrize(
    ("header", "line", "words"),
    [
        ({}, {"input_tokens": 40, "runs": [[0, 300]]}, "300 ids for 40 tokens, expected 3 blocks of 16"),
        ({"block_tokens": 0}, {"runs": [[0, 1]]}, "field 'block_tokens': got 0"),
        ({"version": 2}, {"runs": [[0, 1]]}, "only version 1 is known"),
        ({"blocks": 4}, {"runs": [[3, 2]]}, "the last id is 4, the largest allowed 3"),
    ],
)
def test_what_the_lab_refuses_every_command_refuses(write, read, header, line, words):
    with pytest.raises(TraceError, match=words):
        read(write([HEADER | header, {"time_s": 0, "output_tokens": 5} | line]))


def test_lines_out_of_order_are_sorted_by_the_command_that_the_refusal_names(write, tmp_path):
    lines = [{"time_s": time_s, "runs": [[0, 1]]} for time_s in (5, 3)]
    path, out = write([HEADER, *lines]), tmp_path / "sorted.jsonl"
    with pytest.raises(TraceError, match="traces convert, which sorts them"):
        load_trace(path)
    convert(path, out)
    assert load_trace(out).time_s.tolist() == [3, 5]


def test_runs_are_read_as_the_ids_that_they_stand_for(write):
    ids = RunIds(((7, 2), (3, 1)))
    assert ids == [7, 8, 3] and list(reversed(ids)) == [3, 8, 7] and (ids[-1], ids[1]) == (3, 8)
    assert ids[:2] == [7, 8] and runs_of(ids) == [(7, 2), (3, 1)] and ids[:-1] == [7, 8]
    with pytest.raises(IndexError):
        ids[3]
    huge = {"time_s": 0, "output_tokens": 1, "runs": [[0, 9 * 10**18]]}
    with pytest.raises(TraceError, match="at most 16,777,216 are followed outside the lab"):
        list(requests_of(write([HEADER, huge])).arrivals)


def test_a_packed_trace_holds_neither_its_name_nor_the_time(tmp_path, monkeypatch):
    for name, now in (("one.gz", 1e9), ("other.gz", 2e9)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        with written_whole(tmp_path / name) as file:
            file.write("the same\n")
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "other.gz").read_bytes()
    assert gzip.decompress((tmp_path / "one.gz").read_bytes()) == b"the same\n"


@pytest.mark.parametrize("name", ["lab.jsonl.gz", "lab.jsonl.bz2", "lab.jsonl.xz"])
def test_a_file_is_packed_as_its_name_says(write, tmp_path, name):
    convert(write(conversation()), tmp_path / name)
    assert load_trace(tmp_path / name).requests == 60
    assert not (tmp_path / name).read_bytes().startswith(b"{")


def test_what_cannot_be_written_leaves_nothing(kv, write, tmp_path):
    path = write(conversation())
    before = path.read_bytes()
    own = kv("traces", "convert", path, "--out", path)
    assert own.code == 2 and "is a file that this command reads" in own.err
    with pytest.raises(TraceError, match="it is read, and the result would be written over it"):
        convert(path, path)
    (tmp_path / "link.png").symlink_to(path)
    drawn = kv("hierarchy", "replay", path, "--capacity", 9, "--plot", tmp_path / "link.png")
    assert drawn.code == 2 and "--plot" in drawn.err
    logged = kv("serving", "simulate", "--trace", path, "--limit", 50, "--log", path)
    assert logged.code == 2 and "--log" in logged.err and path.read_bytes() == before
    (folder := tmp_path / "folder").mkdir()
    assert "is a folder; give a file" in kv("traces", "convert", path, "--out", folder).err
    assert "read, not written" in kv("traces", "convert", path, "--out", tmp_path / "lab.zst").err
    cut = write([*map(json.dumps, conversation()), "{"], "cut.jsonl")
    assert kv("traces", "convert", cut, "--out", tmp_path / "new.jsonl").code == 2
    assert {one.name for one in tmp_path.iterdir()} == {"trace.jsonl", "cut.jsonl", "link.png", "folder"}

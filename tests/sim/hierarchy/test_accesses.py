"""Accesses alone: the pages of a trace without its other columns, from and to libCacheSim's binary files."""

import numpy as np
import pytest

from kv_cache_rl.sim.hierarchy.generate import PART, zipf, zipf_accesses
from kv_cache_rl.sim.hierarchy.spec import HierarchyError
from kv_cache_rl.sim.hierarchy.traces.accesses import (
    RECORD,
    SMALLEST_TABLE,
    Accesses,
    accesses_of,
    load_accesses,
    save_accesses,
)
from kv_cache_rl.sim.hierarchy.traces.lab_file import save
from kv_cache_rl.sim.hierarchy.traces.load import load_trace
from kv_cache_rl.traces import TraceError


def write(path, times, objects, sizes):
    records = np.zeros(len(times), RECORD)
    records["time"], records["object"], records["bytes"], records["next"] = times, objects, sizes, -1
    records.tofile(path)
    return path


def assert_as_the_trace(found, trace):
    assert found.ids.dtype == np.int32 and found.ids.tolist() == trace.run_start.tolist()
    assert np.broadcast_to(found.page_bytes, found.blocks).tolist() == trace.page_bytes.tolist()
    assert (found.blocks, found.name, found.left_out) == (trace.blocks, trace.name, trace.left_out)
    assert found.requests == found.accesses == trace.accesses


def test_a_binary_file_is_read_as_a_trace_is(tmp_path):
    rng = np.random.default_rng(3)
    count, kinds = 3 * SMALLEST_TABLE, SMALLEST_TABLE  # more objects than the first table has room for
    objects = rng.integers(2**63, 2**64 - 1, kinds, np.uint64)[rng.integers(0, kinds, count)]
    sizes = rng.integers(0, 3, count)
    path = write(tmp_path / "any.bin", np.sort(rng.integers(0, 9_000, count)), objects, sizes)
    assert_as_the_trace(load_accesses(path), load_trace(path))
    some = f"{path}#limit=5000"
    assert_as_the_trace(load_accesses(some), load_trace(some))
    assert "accesses of no bytes" in load_accesses(path).left_out


def test_a_file_larger_than_memory_is_refused_with_how_many_of_it_fit(tmp_path, monkeypatch):
    path = write(tmp_path / "large.bin", [0] * 500, np.arange(500), [1] * 500)
    where = "kv_cache_rl.sim.hierarchy.traces.accesses"
    monkeypatch.setattr(f"{where}.SMALL", 0)
    monkeypatch.setattr(f"{where}.free_bytes", lambda: 1_600)
    with pytest.raises(TraceError, match=r"its 500 accesses take .*read the first ones \(--limit 200\)"):
        load_accesses(path)
    assert load_accesses(f"{path}#limit=200").requests == 200


def test_what_is_written_is_read_again(tmp_path):
    sizes = np.arange(1, 301)
    drawn = zipf(300, 70_000, page_bytes=sizes)
    path = tmp_path / "z.oracleGeneral"
    save_accesses(accesses_of(drawn), path)
    found = load_accesses(path)
    first = np.unique(drawn.run_start, return_index=True)
    number = np.empty(300, np.int64)
    number[first[0][np.argsort(first[1])]] = np.arange(len(first[0]))
    assert found.ids.tolist() == number[drawn.run_start].tolist()
    assert found.page_bytes[found.ids].tolist() == sizes[drawn.run_start].tolist()


def test_pages_without_bytes_are_written_with_one_each(tmp_path):
    path = tmp_path / "one.oracleGeneral"
    save_accesses(Accesses("one", np.array([0, 1, 0], np.int32), 2, 0), path)
    assert load_accesses(path).page_bytes.tolist() == [1, 1]


def test_other_formats_are_read_whole(tmp_path):
    path = tmp_path / "pages.jsonl"
    drawn = zipf(30, 400, page_bytes=8)
    save(drawn, path)
    assert_as_the_trace(load_accesses(path), load_trace(path))


def test_accesses_are_drawn_as_those_of_a_trace():
    whole, lean = zipf(50, 2 * PART + 7, 0.9, 5), zipf_accesses(50, 2 * PART + 7, 0.9, 5)
    assert lean.ids.tolist() == whole.run_start.tolist() and lean.blocks == whole.blocks
    rng = np.random.default_rng(5)
    below = np.cumsum(np.arange(1, 51, dtype=np.float64) ** -0.9)
    ranks = np.searchsorted(below, rng.random(2 * PART + 7) * below[-1], side="right")
    assert whole.run_start.tolist() == rng.permutation(50)[np.minimum(ranks, 49)].tolist()


def test_files_that_cannot_be_used_say_where(tmp_path):
    back = write(tmp_path / "back.bin", [5, 5, 4], [1, 2, 3], [1, 1, 1])
    for read in (load_trace, load_accesses):
        with pytest.raises(TraceError, match=r"back\.bin.*4 s is before 5 s.*convert, which sorts them"):
            read(f"{back}#format=oracle-general")
    torn = tmp_path / "torn.bin"
    torn.write_bytes(write(tmp_path / "t.bin", [1, 2], [1, 2], [1, 1]).read_bytes()[:-3])
    with pytest.raises(TraceError, match="it ends inside record 2"):
        load_accesses(f"{torn}#format=oracle-general")


def test_requests_over_prefix_trees_are_no_page_accesses(tmp_path):
    path = tmp_path / "tree.jsonl"
    path.write_text(
        '{"format": "kv-cache-rl trace", "version": 1, "kind": "requests", "block_tokens": 16}\n'
        '{"time_s": 0, "sequence": 0, "input_tokens": 32, "runs": [[0, 2]]}\n'
    )
    with pytest.raises(HierarchyError, match=r"requests over prefix trees.*leave out --hits-only"):
        load_accesses(path)

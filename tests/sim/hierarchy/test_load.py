"""Trace files become the columns they describe, and files that cannot be used say where and why."""

import dataclasses
import itertools

import numpy as np
import pytest
from block_replay import paths_of, trace_of
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_cache_rl.sim.hierarchy.generate import workload
from kv_cache_rl.sim.hierarchy.traces.lab_file import save
from kv_cache_rl.sim.hierarchy.traces.load import load_trace
from kv_cache_rl.sim.hierarchy.traces.numbering import dense_ids, dense_runs, runs_of
from kv_cache_rl.sim.hierarchy.traces.trace import Trace, expand, pages
from kv_cache_rl.traces.errors import TraceError

WIDE = 2**63 - 1
HEADER = {"format": "kv-cache-rl trace", "version": 1, "kind": "pages", "name": "p", "block_tokens": 16}
PATHS = HEADER | {"kind": "requests"}


def call(t, runs, kind="n", **changes):
    """One request of a Claude Code session."""
    request = {
        "t": t,
        "type": kind,
        "in": 64 * sum(length for _, length in runs),
        "out": 9,
        "stop": "tool_use",
        "it": ["text"],
    }
    return request | {"api_time": 1.0, "think_time": 0.0, "ot": ["text"], "h": runs} | changes


def session(name, requests, **changes):
    """One line of a Claude Code trace."""
    line = {
        "id": name,
        "models": [],
        "block_size": 64,
        "hash_id_scope": "local",
        "tool_tokens": 0,
        "system_tokens": 0,
    }
    return line | {"exact_duplicate": False, "requests": requests} | changes


def agent(t, requests):
    """A sub-agent inside a session."""
    return {
        "t": t,
        "type": "subagent",
        "agent_id": "a",
        "tool_tokens": 0,
        "system_tokens": 0,
        "requests": requests,
    }


def mooncake(timestamp, ids, **changes):
    """One line of a Mooncake trace."""
    return {
        "timestamp": timestamp,
        "input_length": 512 * len(ids),
        "output_length": 3,
        "hash_ids": ids,
    } | changes


def same(left, right):
    """Whether two traces are equal in every column."""
    columns = [field.name for field in dataclasses.fields(Trace)]
    return all(np.array_equal(getattr(left, name), getattr(right, name)) for name in columns)


def test_sessions_are_overlaid_on_one_clock_with_ids_of_their_own(write):
    first = session(
        "a", [call(0, [[5, 2]]), agent(1, [call(2, [[WIDE - 1, 2]])]), call(9, [[5, 2], [900, 1]])]
    )
    path = write([first, session("b", [call(0, [[5, 3]])])], "sessions.jsonl.gz")
    trace = load_trace(path)
    assert (trace.chained, trace.block_tokens, trace.blocks, trace.name) == (
        True,
        64,
        5 + 3,
        "sessions.jsonl.gz",
    )
    assert trace.sequence.tolist() in ([0, 0, 0, 1], [1, 0, 0, 0])
    own = [path for path, sequence in zip(paths_of(trace), trace.sequence, strict=True) if sequence == 0]
    assert own == [[0, 1], [3, 4], [0, 1, 2]]
    times = trace.time_s[trace.sequence == 0]
    assert (times - times[0]).tolist() == pytest.approx([0, 3, 9])
    assert trace.ends.sum() == 2 and trace.ends[-1]
    assert (
        load_trace(path, seed=1).time_s.tolist()
        != trace.time_s.tolist()
        == load_trace(path, seed=0).time_s.tolist()
    )


def test_exact_duplicates_of_a_session_are_dropped_flagged_or_not(write):
    calls = [call(0, [[1, 2]]), call(4, [[1, 3]])]
    copies = [
        session("a", calls),
        session("b", calls),
        session("c", [call(0, [[1, 9]])], exact_duplicate=True),
    ]
    trace = load_trace(write(copies))
    assert (trace.requests, trace.accesses, trace.sequence.tolist()) == (2, 5, [0, 0])


def test_mooncake_ids_keep_all_63_bits_and_what_extends_a_request_is_its_sequence(write):
    ids = [7, WIDE, WIDE - 1, 3]
    trace = load_trace(
        write([mooncake(0, ids[:2]), mooncake(0, [9]), mooncake(3000, ids), mooncake(3000, [9, 11])])
    )
    assert paths_of(trace) == [[0, 1], [2], [0, 1, 3, 4], [2, 5]]
    assert trace.sequence.tolist() == [0, 1, 0, 1]
    assert trace.ends.tolist() == [False, False, True, True]
    assert trace.time_s.tolist() == [0, 0, 3, 3]  # equal times stay in file order


def test_a_coarse_clock_is_jittered_on_request_within_its_tick_and_in_order(write):
    path = write([mooncake(3000 * (at // 4), [at]) for at in range(12)])
    plain, spread = load_trace(path), load_trace(path, jitter_seed=5)
    assert len(set(plain.time_s)) == 3
    assert len(set(spread.time_s)) == 12
    assert (np.diff(spread.time_s) >= 0).all()
    assert np.array_equal(np.floor(spread.time_s / 3) * 3, plain.time_s)
    assert np.array_equal(load_trace(path, jitter_seed=5).time_s, spread.time_s)


def test_bailian_blocks_of_equal_content_differ_after_different_prefixes(write):
    chat = {"timestamp": 0.5, "output_length": 1, "type": "text", "turn": 1, "input_length": 32}
    rows = [chat | {"chat_id": 1, "parent_chat_id": -1, "hash_ids": [2**64 - 1, 5]}]
    rows += [chat | {"chat_id": 2, "parent_chat_id": -1, "hash_ids": [8, 5]}]
    rows += [chat | {"chat_id": 3, "parent_chat_id": 1, "hash_ids": [2**64 - 1, 5]}]
    trace = load_trace(write(rows))
    assert paths_of(trace) == [[0, 1], [2, 3], [0, 1]]
    assert trace.sequence.tolist() == [0, 1, 0]


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
def test_the_labs_own_files_give_back_what_was_saved(tmp_path, name):
    for trace in (
        workload("rag_burst"),
        pages("even", np.array([4, 0, 4]), 16),
        trace_of([[0, 1, 2], [], [0, 3]], [0, 1, 0]),
    ):
        save(trace, tmp_path / name)
        assert same(load_trace(tmp_path / name), trace)
        assert [path.name for path in tmp_path.iterdir()] == [name]


def test_foreign_page_files_may_use_any_ids_and_give_sizes_line_by_line(write):
    rows = [
        {"step": 0, "page": WIDE, "bytes": 7},
        {"step": 0, "page": 5, "bytes": 9},
        {"step": 2, "page": WIDE, "bytes": 7},
    ]
    trace = load_trace(write([HEADER, *rows]))
    assert expand(trace)[1].tolist() == [0, 1, 0]
    assert trace.page_bytes.tolist() == [7, 9]
    assert trace.time_s.tolist() == [0, 0, 2]
    runs = [{"time_s": 1, "runs": [[10, 2], [WIDE, 1]]}, {"time_s": 1, "sequence": 4, "runs": [[10, 1]]}]
    assert paths_of(load_trace(write([PATHS, *runs]))) == [[0, 1, 2], [0]]


@given(
    runs=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), min_size=1, max_size=20),
    base=st.integers(0, WIDE - 80),
)
@settings(max_examples=60, deadline=None)
def test_dense_runs_keep_which_blocks_are_equal_and_in_which_order(runs, base):
    start = np.array([base + first for first, _ in runs], dtype=np.int64)
    length = np.array([many for _, many in runs], dtype=np.int64)
    dense, blocks = dense_runs(start, length)
    names = sorted({first + at for first, many in runs for at in range(many)})
    assert blocks == len(names)
    assert [names[at] for at in dense] == [first for first, _ in runs]


@given(paths=st.lists(st.lists(st.integers(0, WIDE), max_size=6), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_dense_ids_are_numbered_as_they_appear_and_runs_give_them_back(paths):
    flat = [block for path in paths for block in path]
    dense, blocks = dense_ids(np.array(flat, dtype=np.int64))
    assert dense.tolist() == [list(dict.fromkeys(flat)).index(block) for block in flat]
    assert blocks == len(set(flat))
    first, start, length = runs_of(dense, np.array([len(path) for path in paths]))
    again = [b for at, many in zip(start, length, strict=True) for b in range(at, at + many)]
    assert again == dense.tolist()
    assert [sum(length[a:b]) for a, b in itertools.pairwise(first)] == [len(path) for path in paths]


BAD_FILES = {
    "a truncated line": ([mooncake(0, [1]), '{"timestamp": 3, "input_le'], "line 2: the line is cut off"),
    "a negative time": ([mooncake(-1, [1])], "line 1, field 'timestamp': got -1, must be from 0"),
    "time runs back": (
        [mooncake(5, [1]), mooncake(4, [1])],
        "line 2, field 'timestamp': 4 ms is before 5 ms; sort the file",
    ),
    "an id that is none": ([mooncake(0, [None])], "field 'hash_ids[0]': expected an id, got None"),
    "two parents": (
        [mooncake(0, [1, 2]), mooncake(0, [3, 2])],
        "line 2: request 1 puts block 2 after block 3, other requests after block 1",
    ),
    "root and child": (
        [mooncake(0, [1, "x"]), "", mooncake(0, ["x"])],
        "line 3: request 1 puts block 'x' after no block",
    ),
    "a path through itself": ([mooncake(0, [1, 2, 1])], "line 1: request 0 puts block 1 after block 2"),
    "two parents in a session": (
        [session("a", [call(0, [[1, 2]]), call(1, [[7, 1], [2, 1]])])],
        "line 1: request 1 puts",
    ),
    "more blocks than fit": (
        [session("a", [call(at, [[at * 15_625_000, 15_625_000]]) for at in range(140)])],
        "line 1, field 'requests': the session has 2,187,500,000",
    ),
    "a prompt beyond all reason": (
        [session("a", [call(0, [[0, 300_000_000]])])],
        "line 1, field 'requests[0].in': got 19200000000, must be from 0 to 1000000000",
    ),
    "two block sizes": (
        [session("a", [call(0, [[1, 1]])]), session("b", [call(0, [[1, 2]], **{"in": 64})], block_size=32)],
        "field 'block_size': sessions have blocks of [32, 64] tokens",
    ),
    "only duplicates": (
        [session("a", [call(0, [[1, 1]])], exact_duplicate=True)],
        "no session fits the selection 'all'",
    ),
    "no blocks": (
        ["TIMESTAMP,ContextTokens,GeneratedTokens", "2023-11-16 18:17:03.9,1,1"],
        "azure format names no blocks",
    ),
    "an unknown format": (['{"what": 1}'], "line 1: the first line fits no known trace format"),
    "an empty file": ([], "the file is empty"),
    "a header alone": ([HEADER], "the file has a header and no requests; give at least one"),
    "another version": (
        [HEADER | {"version": 2}],
        "line 1, field 'version': version 2; only version 1 is known",
    ),
    "another kind": ([HEADER | {"kind": "x"}], "field 'kind': got 'x'; use one of pages, requests"),
    "a page of no bytes": (
        [HEADER, {"step": 0, "page": 1, "bytes": 0}],
        "line 2, field 'bytes': got 0, must be from 1",
    ),
    "a page by name": (
        [HEADER, {"step": 0, "page": "page-1"}],
        "line 2, field 'page': expected an integer, got 'page-1'",
    ),
    "a page that grows": (
        [HEADER, {"step": 0, "page": 1, "bytes": 4}, {"step": 1, "page": 1, "bytes": 5}],
        "line 3, field 'bytes': page 1 has 5 bytes here and 4 before",
    ),
    "pages without a size": (
        [HEADER, {"step": 0, "page": 1, "bytes": 4}, {"step": 1, "page": 2}],
        "line 1, field 'page_bytes': 1 of 2 pages have a size",
    ),
    "steps that fall": (
        [HEADER, {"step": 2, "page": 1}, {"step": 1, "page": 1}],
        "line 3, field 'step': 1 comes after 2",
    ),
    "an id beyond the header's": (
        [HEADER | {"blocks": 3}, {"step": 0, "page": 3}],
        "field 'page': got 3, must be from 0 to 2",
    ),
    "sizes for other pages": (
        [HEADER | {"blocks": 3, "page_bytes": [1]}],
        "field 'page_bytes': 1 sizes; give blocks, and one",
    ),
    "an empty run": (
        [PATHS, {"time_s": 0, "runs": [[1, 0]]}],
        "line 2, field 'runs[0][1]': got 0, must be from 1",
    ),
    "a run past 63 bits": (
        [PATHS, {"time_s": 0, "runs": [[WIDE, 2]]}],
        "field 'runs[0]': the last id is 9223372036854775808",
    ),
    "requests without blocks": (
        [PATHS, {"time_s": 0, "runs": []}],
        "trace.jsonl: no request names a block; give at least one; stability plan",
    ),
    "a block with two parents": (
        [PATHS, {"time_s": 0, "runs": [[1, 2]]}, {"time_s": 0, "runs": [[2, 1]]}],
        "line 3: request 1 puts block 1 ... after no block",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_cannot_be_used_says_where_and_why(write, case):
    records, message = BAD_FILES[case]
    path = write(records)
    with pytest.raises(TraceError) as caught:
        load_trace(path)
    assert caught.value.remedy
    for part in (path.name, *message.split(" ... ")):
        assert part in str(caught.value)


def test_options_and_formats_that_do_not_exist_are_refused(write):
    path = write([mooncake(0, [1])])
    with pytest.raises(
        ValueError, match="mooncake traces have no option 'seed'; leave it out; they take none"
    ):
        load_trace(path, seed=1)
    with pytest.raises(
        ValueError, match="unknown format 'csv'; give one of claude-code, mooncake, bailian, libcachesim"
    ):
        load_trace(path, format="csv")
    with pytest.raises(ValueError, match="unknown selection 'some'; use one of all, headroom"):
        load_trace(write([session("a", [call(0, [[1, 1]])])]), selection="some")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pages("x", np.array([], int)), "x: the trace has no requests"),
        (lambda: pages("x", np.array([0.5])), "field 'ids': expected integers, got float64"),
        (
            lambda: pages("x", np.array([2**63], np.uint64)),
            "field 'ids': 9223372036854775808 has more than 63 bits",
        ),
        (lambda: pages("x", np.array([-1])), "field 'run_start': run 0 is 1 blocks from -1 on"),
        (
            lambda: pages("x", np.array([3]), np.array([1, 1])),
            "run 0 is 1 blocks from 3 on, the trace has 2 blocks",
        ),
        (lambda: pages("x", np.array([0, 1]), np.array([5, 0])), "field 'page_bytes': page 1 has 0 bytes"),
        (lambda: pages("x", np.array([0]), -5), "field 'page_bytes': a page has -5 bytes"),
        (
            lambda: pages("x", np.array([0, 0]), steps=[2, 1]),
            "field 'time_s': request 1 at 1 s comes after one at 2 s",
        ),
        (lambda: pages("x", np.array([0]), steps=[float("nan")]), "field 'time_s': request 0 is at nan s"),
        (
            lambda: pages("x", np.array([0, 0]), steps=[0]),
            "field 'sequence': the column is int64 .2., expected int64 .1.",
        ),
        (
            lambda: pages("x", np.array([0]), sequence=np.array([-1])),
            "a sequence index or a number of tokens is negative",
        ),
        (lambda: pages("x", np.array([0]), block_tokens=0), "a block has 0 tokens; give at least 1"),
    ],
)
def test_columns_that_do_not_fit_are_refused(make, message):
    with pytest.raises(TraceError, match=message):
        make()

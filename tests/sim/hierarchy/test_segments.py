"""Work and memory grow with the runs of a trace, and what cannot be held is refused with the way out."""

import tracemalloc

import numpy as np
import pytest
from block_replay import trace_of

from kv_cache_rl.sim.hierarchy.curves.bound import min_hits
from kv_cache_rl.sim.hierarchy.curves.runs import lru, lru_curve, pieces
from kv_cache_rl.sim.hierarchy.engine import run
from kv_cache_rl.sim.hierarchy.spec import one_tier
from kv_cache_rl.sim.hierarchy.traces.load import load_trace
from kv_cache_rl.sim.hierarchy.traces.segments import check_room, segments
from kv_cache_rl.traces.errors import TraceError

HEADER = {"format": "kv-cache-rl trace", "version": 1, "kind": "requests", "name": "big", "block_tokens": 16}
HUGE = 60_000_000


def test_a_run_is_a_whole_number_of_segments():
    start, length = np.array([0, 4, 100, 6]), np.array([10, 3, 50, 4])
    cut = segments(start, length, 10**6, ends=np.array([119]))
    assert cut.edges.tolist() == [0, 4, 6, 7, 10, 100, 120, 150]
    for first, count, begin, blocks in zip(cut.start, cut.length, start, length, strict=True):
        assert (cut.edges[first], cut.edges[first + count]) == (begin, begin + blocks)
    assert segments(start, length, 8).edges.tolist() == list(range(9))


def test_long_runs_are_cut_into_the_same_pieces_as_their_blocks():
    paths = [list(range(60)), [*range(30), *range(60, 90)], list(range(45)), [*range(30), 60]]
    trace = trace_of(paths)
    cut = pieces(trace)
    assert [cut.end[a:b].tolist() for a, b in zip(cut.first[:-1], cut.first[1:], strict=True)] == [
        [60], [30, 60], [30, 45], [30, 31],
    ]  # fmt: skip
    assert cut.owner.tolist() == [-1, 0, -1, 1, 0, 2, 1]


def test_sixty_million_blocks_in_one_run_are_replayed_by_runs(write):
    row = {"sequence": 0, "input_tokens": 16 * HUGE, "output_tokens": 40, "runs": [[0, HUGE]]}
    tracemalloc.start()
    trace = load_trace(write([HEADER, {"time_s": 0} | row, {"time_s": 1} | row]))
    assert (trace.accesses, trace.blocks) == (2 * HUGE, HUGE + 4)
    assert [lru(trace, 1_000), lru(trace, 2 * HUGE)] == [1_000, HUGE]
    assert min_hits(trace, 2 * HUGE) == HUGE
    assert tracemalloc.get_traced_memory()[1] < HUGE, "less than a byte a block"
    tracemalloc.stop()


def test_what_cannot_be_held_is_refused_with_the_way_out(monkeypatch):
    monkeypatch.setattr("kv_cache_rl.sim.hierarchy.traces.segments.free_bytes", lambda: 2 * 10**9)
    remedy = r"3,000 blocks: all of it takes 3.0 GB, of which 2.0 GB are free; count hits of lru and belady"
    with pytest.raises(TraceError, match=remedy):
        check_room("mine", 3_000, 3 * 10**9, "all of it")
    check_room("mine", 3_000, 10**9, "all of it")
    monkeypatch.setattr("kv_cache_rl.sim.hierarchy.traces.segments.SMALL", 0)
    monkeypatch.setattr("kv_cache_rl.sim.hierarchy.traces.segments.free_bytes", lambda: 1_000)
    trace = trace_of([list(range(40))] * 2)
    for replay in (lambda: run(trace, one_tier(9), "sieve"), lambda: lru_curve(trace)):
        with pytest.raises(TraceError, match=r"40 blocks: .* belady"):
            replay()
    assert lru(trace, 40) == 40

"""Replays on runs of blocks give what a replay block by block gives, on any tree; and what follows from
theory.
"""

import itertools
import random

import numpy as np
import pytest
from block_replay import best_of_all, heap_replay, ordered_dict_lru, paths_of, trace_of
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_cache_rl.cli.hierarchy.measure import ordered_dict_hits, ordered_dict_rate, run_length_rate
from kv_cache_rl.sim.hierarchy.curves.bound import EQUAL_PAGES, PREFIX_CLOSED, bound_name, min_curve, min_hits
from kv_cache_rl.sim.hierarchy.curves.runs import UNTOUCHED, lru, lru_curve, lru_hits, pieces, stack_distances
from kv_cache_rl.sim.hierarchy.curves.sampled import mean_error, sampled_curve
from kv_cache_rl.sim.hierarchy.generate import zipf
from kv_cache_rl.sim.hierarchy.traces.trace import expand, pages, parents

law = settings(max_examples=60, deadline=None)
CAPACITIES = (1, 2, 3, 5, 9, 17, 60)


@st.composite
def forests(draw, requests=40, depth=12):
    """Requests that are paths from the root of a growing forest: some rewind, some branch, some repeat, some
    are empty.
    """
    rng = random.Random(draw(st.integers(0, 2**32)))
    fan_out, blocks = draw(st.integers(1, 3)), itertools.count()
    children, paths = {}, []
    for _ in range(draw(st.integers(1, requests))):
        path = []
        for _ in range(rng.randint(0, depth)):
            below = children.setdefault(path[-1] if path else None, [])
            if (len(below) < fan_out and rng.random() < 0.4) or not below:
                below.append(next(blocks))
            path.append(rng.choice(below))
        paths.append(path)
    return paths if any(paths) else [*paths, [next(blocks)]]


@given(paths=forests())
@law
def test_lru_on_runs_equals_an_ordered_dict_of_blocks(paths):
    trace = trace_of(paths)
    assert paths_of(trace) == paths
    for capacity in CAPACITIES:
        assert (
            lru(trace, capacity) == ordered_dict_lru(paths, capacity) == heap_replay(paths, capacity, "lru")
        )


@given(paths=forests())
@law
def test_the_curve_from_stack_distances_equals_a_replay_at_every_capacity_and_never_falls(paths):
    trace = trace_of(paths)
    cut, hits = pieces(trace), np.cumsum(stack_distances(trace))
    assert hits.tolist()[1:] == [lru(trace, capacity, cut) for capacity in range(1, trace.blocks + 1)]
    assert hits[0] == 0
    assert (np.diff(hits) >= 0).all()  # inclusion: a larger LRU cache holds all that a smaller one holds
    assert hits[-1] == trace.accesses - len(
        set(itertools.chain(*paths))
    )  # at infinity only first touches miss


@given(paths=forests())
@law
def test_pieces_cover_each_path_with_ever_older_owners(paths):
    trace = trace_of(paths)
    cut, owner_of = pieces(trace), {}
    for request, path in enumerate(paths):
        begin, owners = 0, []
        for piece in range(cut.first[request], cut.first[request + 1]):
            owners.append(int(cut.owner[piece]))
            assert {owner_of.get(block, UNTOUCHED) for block in path[begin : cut.end[piece]]} == {owners[-1]}
            begin = cut.end[piece]
        assert begin == len(path)
        assert owners == sorted(set(owners), reverse=True)
        owner_of.update(dict.fromkeys(path, request))


@given(paths=forests())
@law
def test_min_on_runs_equals_the_block_replay_and_bounds_lru_fifo_and_lfu(paths):
    trace = trace_of(paths)
    curve = min_curve(trace, CAPACITIES)
    for capacity in CAPACITIES:
        best = min_hits(trace, capacity)
        assert best == heap_replay(paths, capacity, "min") == round(curve.at(capacity) * trace.accesses)
        assert best >= max(heap_replay(paths, capacity, policy) for policy in ("lru", "fifo", "lfu"))


@given(paths=forests(requests=7, depth=3), capacity=st.integers(1, 3))
@law
def test_no_choice_of_what_to_keep_beats_min(paths, capacity):
    assert min_hits(trace_of(paths), capacity) == best_of_all(paths, capacity)


@given(ids=st.lists(st.integers(0, 9), min_size=1, max_size=60), capacity=st.integers(1, 11))
@law
def test_page_traces_go_the_same_way_with_and_without_the_page_loop(ids, capacity):
    trace, paths = pages("pages", np.array(ids)), [[page] for page in ids]
    expected = ordered_dict_lru(paths, capacity)
    assert lru_hits(trace.run_start, trace.blocks, capacity) == lru(trace, capacity) == expected
    assert round(lru_curve(trace).at(capacity) * trace.accesses) == expected
    assert lru(trace_of(paths), capacity) == expected
    assert min_hits(trace, capacity) == best_of_all(paths, min(capacity, 3)) or capacity > 3
    assert min_hits(trace, capacity) == heap_replay(paths, capacity, "min") >= expected


def test_a_hint_that_a_sequence_ended_frees_all_its_blocks_and_no_others():
    trace = trace_of([[0, 4], [0, 1], [2, 3], [0, 1], [2, 3]], sequence=[0, 0, 1, 0, 1])
    assert (
        lru(trace, 3) == 1 + 0 + 1 + 1
    )  # at the last request 3 has made room for 0 and 1, which no request wants again
    assert lru(trace, 3, end_hint=True) == 1 + 0 + 1 + 2
    assert lru(trace, 5, end_hint=True) == lru(trace, 5) == 1 + 0 + 2 + 2


def test_a_path_longer_than_the_cache_leaves_its_first_blocks():
    trace = trace_of([[0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [5], [0, 1, 2]])
    assert [lru(trace, capacity) for capacity in (1, 2, 3, 5)] == [1, 2 + 1, 3 + 2, 5 + 3]


def test_parents_follow_from_the_paths():
    trace = trace_of([[0, 1, 2], [0, 1, 3], [4, 5]])
    assert parents(trace).tolist() == [-1, 0, 1, 1, -1, 4]
    first, block = expand(trace)
    assert (first.tolist(), block.tolist()) == ([0, 3, 6, 8], [0, 1, 2, 0, 1, 3, 4, 5])


def test_many_requests_outgrow_the_first_slots_of_the_tree():
    trace = zipf(3000, 30_000, skew=0.7)
    curve = lru_curve(trace)
    for capacity in (1, 10, 500, 2999, 3000):
        assert round(curve.at(capacity) * trace.accesses) == lru_hits(trace.run_start, trace.blocks, capacity)


@pytest.mark.parametrize("rate", [0.03, 0.3])
def test_the_sampled_curve_is_as_far_off_as_it_says(rate):
    trace = zipf(20_000, 200_000, skew=0.8)
    exact = lru_curve(trace)
    curves = [sampled_curve(trace, rate, seed) for seed in range(8)]
    stated = np.mean([curve.error for curve in curves])
    measured = np.mean([mean_error(curve, exact) for curve in curves])
    assert measured < 0.03
    assert stated / 2.5 < measured < stated * 2.5


def test_sampling_everything_is_exact_and_one_seed_gives_one_curve():
    trace = zipf(500, 5000)
    exact = lru_curve(trace)
    whole = sampled_curve(trace, 1.0)
    assert (whole.error, mean_error(whole, exact)) == (0.0, 0.0)
    again = [sampled_curve(trace, 0.2, seed) for seed in (3, 3, 4)]
    assert np.array_equal(again[0].hit_rate, again[1].hit_rate)
    assert not np.array_equal(again[0].hit_rate, again[2].hit_rate)


def test_the_bound_has_a_name_only_where_it_is_one():
    ids = np.array([0, 1, 0])
    assert bound_name(trace_of([[0, 1]])) == PREFIX_CLOSED
    assert (
        bound_name(pages("equal", ids, np.array([8, 8]))) == bound_name(pages("counted", ids)) == EQUAL_PAGES
    )
    assert bound_name(pages("mixed", ids, np.array([8, 9]))) == ""


def test_the_compiled_page_loop_hits_as_an_ordered_dict_does_and_is_many_times_faster():
    trace = zipf(100_000, 300_000, 1.0)
    assert lru_hits(trace.run_start, 100_000, 20_000) == ordered_dict_hits(trace.run_start.tolist(), 20_000)
    assert run_length_rate(trace, 20_000) > 5 * ordered_dict_rate(trace.run_start, 20_000)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda trace: lru(trace, 0), "capacity is 0 blocks; give at least 1"),
        (lambda trace: min_hits(trace, -1), "capacity is -1 blocks"),
        (lambda trace: min_curve(trace, [3, 0]), "capacity is 0 blocks"),
        (
            lambda trace: lru_hits(np.array([0, 7]), 7, 2),
            "ids run from 0 to 7, pages is 7; number them densely",
        ),
        (
            lambda trace: sampled_curve(trace, 0.0),
            "the sampling rate is 0.0; give a number above 0, at most 1",
        ),
        (lambda trace: sampled_curve(trace, 1e-9), "samples none of 3 blocks; give a higher one"),
    ],
)
def test_numbers_out_of_range_are_refused(act, message):
    with pytest.raises(ValueError, match=message):
        act(trace_of([[0, 1, 2]]))

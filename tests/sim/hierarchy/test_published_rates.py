"""Hit rates on the published traces, known to a tenth of a percent; skipped, and said so, where the traces
are absent.
"""

import pytest
from block_replay import heap_replay, paths_of

from kv_cache_rl.sim.hierarchy.curves.bound import min_curve
from kv_cache_rl.sim.hierarchy.curves.runs import lru, lru_curve, pieces
from kv_cache_rl.sim.hierarchy.curves.sampled import mean_error, sampled_curve

CONVERSATION = "mooncake/conversation_trace.jsonl.gz"
SESSIONS = "claude-code/cc_sessions_rle.jsonl.gz"

MOONCAKE = (100, 1_000, 3_000, 10_000, 30_000, 50_000, 100_000)
MOONCAKE_LRU = [4.2, 4.5, 6.5, 21.2, 32.6, 35.5, 36.4]
MOONCAKE_MIN = [
    7.0,
    19.1,
    29.4,
    36.6,
    36.6,
    36.6,
    36.6,
]  # published: 29.5 for 84,953 of 288,500 = 29.446, rounded twice
CLAUDE = (1_000, 3_000, 10_000, 30_000, 100_000, 200_000, 300_000, 1_000_000)
CLAUDE_LRU = [
    1.6,
    4.5,
    11.4,
    40.8,
    88.6,
    94.5,
    95.5,
    96.2,
]  # published: 1.7 for 1,405,265 of 85,405,325 = 1.645, rounded twice
HEADROOM = (5_000, 10_000, 20_000, 40_000)


def percent(hits, trace):
    """Of the block accesses, to a tenth."""
    return round(100 * hits / trace.accesses, 1)


def test_mooncake_lru_at_seven_capacities_by_replay_and_from_the_curve(published):
    trace = published(CONVERSATION)
    cut, curve = pieces(trace), lru_curve(trace)
    hits = [lru(trace, capacity, cut) for capacity in MOONCAKE]
    assert [percent(found, trace) for found in hits] == MOONCAKE_LRU
    assert [round(curve.at(capacity) * trace.accesses) for capacity in MOONCAKE] == hits


def test_mooncake_min_at_seven_capacities_and_block_by_block_where_the_published_digit_differs(published):
    trace = published(CONVERSATION)
    curve = min_curve(trace, MOONCAKE)
    assert (100 * curve.hit_rate).round(1).tolist() == MOONCAKE_MIN
    assert heap_replay(paths_of(trace), 3_000, "min") == 84_953 == round(curve.at(3_000) * trace.accesses)


@pytest.mark.parametrize(
    ("policy", "known"),
    [("fifo", {100: 3.6, 10_000: 18.1}), ("lfu", {100: 4.4, 10_000: 13.2})],
)
def test_the_block_replay_gives_the_published_fifo_and_lfu_of_mooncake(published, policy, known):
    trace = published(CONVERSATION)
    paths = paths_of(trace)
    assert {capacity: percent(heap_replay(paths, capacity, policy), trace) for capacity in known} == known


def test_claude_code_lru_at_eight_capacities(published):
    trace = published(SESSIONS)
    assert (trace.requests, trace.accesses, trace.blocks) == (46_218, 85_405_325, 3_195_527)
    cut = pieces(trace)
    curve = lru_curve(trace, cut)
    hits = [lru(trace, capacity, cut) for capacity in CLAUDE]
    assert [percent(found, trace) for found in hits] == CLAUDE_LRU
    assert hits[0] == 1_405_265
    assert [round(curve.at(capacity) * trace.accesses) for capacity in CLAUDE] == hits


def test_infinite_caches_serve_what_is_published(published):
    claude, mooncake = published(SESSIONS), published(CONVERSATION)
    assert round(100 * lru(claude, claude.blocks) / claude.accesses, 2) == 96.26
    assert percent(lru(mooncake, mooncake.blocks), mooncake) == 36.6


def test_the_headroom_of_60_sessions_between_lru_a_hint_and_min(published):
    trace = published(SESSIONS, selection="headroom")
    assert (trace.requests, round(trace.accesses / 1e6, 2)) == (4_031, 7.62)
    cut = pieces(trace)
    assert [percent(lru(trace, capacity, cut), trace) for capacity in HEADROOM] == [22.7, 46.5, 79.6, 93.7]
    hinted = [percent(lru(trace, capacity, cut, end_hint=True), trace) for capacity in HEADROOM]
    assert hinted == [23.3, 47.5, 80.4, 94.4]
    assert (100 * min_curve(trace, HEADROOM, cut).hit_rate).round(1).tolist() == [48.5, 70.2, 88.3, 95.5]


@pytest.mark.parametrize(("name", "rate", "at_most"), [(SESSIONS, 0.01, 0.002), (CONVERSATION, 0.1, 0.015)])
def test_sampled_curves_of_real_traces_are_about_as_far_off_as_they_say(published, name, rate, at_most):
    trace = published(name)
    exact = lru_curve(trace)
    curves = [sampled_curve(trace, rate, seed) for seed in range(4)]
    stated = sum(curve.error for curve in curves) / 4
    measured = sum(mean_error(curve, exact) for curve in curves) / 4
    assert measured < at_most
    assert stated / 3 < measured < stated * 3

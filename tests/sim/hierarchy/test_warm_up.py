"""What comes first fills the cache and is in no metric."""

from dataclasses import replace

import numpy as np
import pytest
from conversations import texts
from hypothesis import given, settings
from hypothesis import strategies as st
from stepping import page_trace, rng_of, tree_trace

from kv_cache_rl.sim.hierarchy.curves.bound import min_hits
from kv_cache_rl.sim.hierarchy.curves.runs import lru, lru_curve
from kv_cache_rl.sim.hierarchy.curves.sampled import sampled_curve
from kv_cache_rl.sim.hierarchy.engine import run
from kv_cache_rl.sim.hierarchy.generate import workload
from kv_cache_rl.sim.hierarchy.score import reached_rate
from kv_cache_rl.sim.hierarchy.spec import HierarchyError, one_tier, physical
from kv_cache_rl.sim.hierarchy.traces.trace import subset
from kv_cache_rl.sim.hierarchy.traces.warm_up import warmed
from kv_cache_rl.sim.hierarchy.traces.writes import decoded

few = settings(max_examples=8, deadline=None)
COUNTS = ("accesses", "miss_count", "eviction_count", "drop_count", "bytes_moved", "compressions")


@pytest.mark.parametrize("policy", ["lru", "arc", "gdsf", "value_aware"])
@given(seed=st.integers(0, 2**32))
@few
def test_what_is_measured_is_the_whole_run_less_its_beginning(policy, seed):
    rng = rng_of(seed)
    answered = replace(decoded(texts(seed).trace()), page_bytes=8)
    traces = (page_trace(rng), tree_trace(rng, largest=3), answered)
    for trace in traces:
        warm = warmed(trace, "40%")
        assert 0 < warm.warm_up < trace.requests
        scenario = physical(60, 0, 120, 180, squeeze="int8")
        begun = np.arange(trace.requests) < warm.warm_up
        whole, first, rest = (run(t, scenario, policy) for t in (trace, subset(trace, begun), warm))
        for name in COUNTS:
            assert rest.metrics[name] == whole.metrics[name] - first.metrics[name], name
        assert rest.metrics["avg_latency_ms"] == whole.state.latency[warm.warm_up :].mean() * 1e3
        assert rest.time_line() == whole.time_line()
        assert (rest.by_sequence()["hits"] == whole.by_sequence()["hits"]).all()


@given(seed=st.integers(0, 2**32), share=st.floats(0.05, 0.9))
@few
def test_the_bound_bounds_what_is_measured_and_the_curves_measure_it(seed, share):
    for trace in (decoded(texts(seed).trace()), page_trace(rng_of(seed), largest=1)):
        warm = warmed(trace, round(share, 3))
        curve, sampled = lru_curve(warm), sampled_curve(warm, 1.0)
        for capacity in (1, 4, 11, 10**4):
            scenario = one_tier(capacity * (8 if isinstance(trace.page_bytes, np.ndarray) else 1))
            found = run(warm, scenario, "lru").metrics
            hits = round(found["hit_rate"] * warm.accesses)
            assert hits == lru(warm, capacity) == round(curve.at(capacity) * warm.accesses)
            assert sampled.at(capacity) == pytest.approx(curve.at(capacity))
            assert hits <= min_hits(warm, capacity)


def test_accesses_shares_and_seconds_end_with_a_whole_request():
    trace = tree_trace(rng_of(4), requests=10, depth=5)
    until = np.cumsum(trace.lengths)
    assert warmed(trace, int(until[3])).warm_up == warmed(trace, int(until[2]) + 1).warm_up == 4
    assert warmed(trace, until[3] / until[-1] + 0.0).warm_up == 4
    assert warmed(trace, "3s").warm_up == warmed(trace, "2.5s").warm_up == 3
    assert warmed(trace, 0).warm_up == warmed(trace, "0s").warm_up == 0
    assert warmed(trace, 1).accesses == until[-1] - until[0]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            "soon",
            r"'soon' is no warm-up; write accesses \(1000\), a share of them \(20%\) or seconds \(600s\)",
        ),
        (-3, "-3 is no warm-up"),
        (True, "True is no warm-up"),
        ("nan", "'nan' is no warm-up"),
        ("100%", "the warm-up 100% is the whole trace or more; give a share below 100%"),
        (1.0, "the warm-up 1.0 is the whole trace"),
        (10**9, "takes all 320 requests of 'rag_burst': nothing is left to measure"),
        ("999s", "a warm-up of 999s takes all"),
    ],
)
def test_a_warm_up_that_leaves_nothing_or_is_none_is_refused(wanted, message):
    with pytest.raises(HierarchyError, match=message):
        warmed(workload("rag_burst"), wanted)


def test_pages_fetched_ahead_in_the_warm_up_are_neither_useful_nor_wasted_later():
    trace = workload("prefetch_friendly")
    scenario = physical(40_000, 0, 10**6, 0, prefetch=True)
    for share in (0, 0.5, 0.9):
        found = run(warmed(trace, share), scenario, "predictive").metrics
        assert found["useful_prefetches"] + found["wasted_prefetches"] == found["prefetch_requests"] > 0
        assert found["prefetch_usefulness"] <= 1


def test_what_reached_the_model_is_what_the_tiers_found_less_what_was_computed_anew():
    trace = workload("rag_burst")
    plain = run(trace, physical(30_000, 0, 150_000, 0), "lru").metrics
    assert reached_rate(plain) == pytest.approx(sum(plain["tier_hit_rate"].values()))
    assert reached_rate(plain) > plain["hit_rate"]
    anew = run(trace, physical(30_000, 0, 150_000, 0, recompute=True), "lru").metrics
    computed = anew["recomputed_from_below"] / anew["accesses"]
    assert reached_rate(anew) == pytest.approx(sum(anew["tier_hit_rate"].values()) - computed)


def test_a_share_that_reached_the_model_is_rounded_as_its_tier_is():
    """94 of 320 are 29.375 %: a difference of floats fell below that, and was printed as another number."""
    for nowhere, accesses in ((226, 320), (1, 3), (7, 160)):
        row = {"accesses": accesses, "recompute_rate": nowhere / accesses, "recomputed_from_below": 0}
        assert reached_rate(row) == (accesses - nowhere) / accesses

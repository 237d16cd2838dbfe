"""One tier of pages by the short way: hit by hit what the engine does, under every policy that has it."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stepping import SEEDS, page_trace, rng_of, tiers_for, whole

from kv_cache_rl.sim.hierarchy import flat
from kv_cache_rl.sim.hierarchy.audit import check
from kv_cache_rl.sim.hierarchy.dynamics import new_state
from kv_cache_rl.sim.hierarchy.engine import run
from kv_cache_rl.sim.hierarchy.flat import MOST, hits_of
from kv_cache_rl.sim.hierarchy.policies import POLICIES, order_of
from kv_cache_rl.sim.hierarchy.score import metrics
from kv_cache_rl.sim.hierarchy.spec import HierarchyError, one_tier
from kv_cache_rl.sim.hierarchy.state import Order
from kv_cache_rl.sim.hierarchy.traces.trace import pages
from kv_cache_rl.traces.errors import TraceError

FLAT = [policy for policy in POLICIES if order_of(policy) in flat.SHORT]


def scenario_of(rng, unit):
    return tiers_for(rng, 1, 2 * unit, unit * rng.choice((3, 7, 20)), compute_s=rng.choice((0.0, 0.3)))


def replayed(trace, scenario, policy, cuts=(), **tuning):
    """The state after all accesses, the short way, in pieces."""
    state = new_state(trace, scenario, policy, **tuning)
    assert flat.applies(state, trace, scenario)
    small = flat.small_state(policy, state)
    for start, stop in pairwise((0, *cuts, trace.requests)):
        flat.advance_flat(state, small, trace.run_start, start, stop)
    return state


def drawn(rng):
    """Pages that are counted, equal or of different sizes, and a tier for 2 to 20 of them."""
    largest = rng.choice((0, 1, 4))
    trace = page_trace(rng, accesses=rng.choice((1, 40, 400)), largest=max(largest, 1))
    trace = trace if largest else pages("counted", trace.run_start)
    return trace, scenario_of(rng, 8 * largest or 1)


@given(seed=SEEDS, policy=st.sampled_from(FLAT))
@settings(max_examples=300, deadline=None)
def test_the_short_way_is_the_engine_bit_for_bit(seed, policy):
    rng = rng_of(seed)
    trace, scenario = drawn(rng)
    tuning = {"window": rng.choice((1, 5, 32))}
    long = whole(trace, scenario, policy, **tuning)
    short = replayed(trace, scenario, policy, (rng.randint(0, trace.requests),), **tuning)
    assert metrics(short, trace, scenario) == metrics(long, trace, scenario)
    for name in ("latency", "hits", "served"):
        assert getattr(short, name).tobytes() == getattr(long, name).tobytes()
    for name in ("clock", "evictions", "drops", "requests"):
        assert short.counters[name] == long.counters[name]
    assert short.tiers[["used", "peak"]].tolist() == long.tiers[["used", "peak"]].tolist()
    assert short.page["tier"].tolist() == long.page["tier"].tolist()
    assert short.sums.seconds == pytest.approx(long.sums.seconds)
    check(short)


@given(seed=SEEDS, policy=st.sampled_from(FLAT))
@settings(max_examples=60, deadline=None)
def test_counting_hits_alone_counts_the_same(seed, policy):
    rng = rng_of(seed)
    trace, scenario = drawn(rng)
    ids = trace.run_start.astype(rng.choice((np.int32, np.int64)))
    at = rng.randint(0, len(ids))
    hits = hits_of(policy, (ids[:at], ids[at:]), trace.blocks, scenario.tiers[0].capacity, trace.page_bytes)
    assert hits == whole(trace, scenario, policy).hits.sum()


@pytest.mark.parametrize("policy", ["arc", "lfu"])
def test_a_run_goes_the_short_way_and_its_warm_up_does_not_count(policy, monkeypatch):
    rng = rng_of(5)
    trace = replace(page_trace(rng, largest=3), warm_up=50)
    scenario = one_tier(120)
    found = run(trace, scenario, policy)
    assert found.state.settings.order == Order.UNKEPT
    monkeypatch.setattr(flat, "applies", lambda *_: False)
    long = run(trace, scenario, policy)
    assert long.state.settings.order != Order.UNKEPT
    assert found.metrics == long.metrics


@pytest.mark.parametrize(
    "rules", [{"squeeze": "int8"}, {"reserve": "10%"}, {"reserve": "stability"}], ids=str
)
def test_the_short_way_is_not_taken_where_pages_change_or_leave_ahead_of_demand(rules):
    trace = page_trace(rng_of(1), largest=3)
    scenario = one_tier(200, **rules)
    assert not flat.applies(new_state(trace, scenario, "sieve"), trace, scenario)
    plain = one_tier(200, overlap=True, recompute=True, promotion="step", compute_s=0.1)
    assert flat.applies(new_state(trace, plain, "sieve"), trace, plain)
    assert not flat.applies(new_state(trace, plain, "random"), trace, plain)
    assert metrics(replayed(trace, plain, "sieve"), trace, plain) == metrics(
        whole(trace, plain, "sieve"), trace, plain
    )


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"policy": "lur"}, HierarchyError, "unknown policy 'lur'"),
        ({"policy": "random"}, HierarchyError, "hits alone are not counted of random, only of lru, fifo, "),
        ({"parts": [np.array([3])]}, TraceError, "ids run from 3 to 3, there are 3 pages"),
        ({"parts": [np.array([0]), np.array([-1, 2])]}, TraceError, "ids run from -1 to 2"),
        ({"page_bytes": 9, "capacity": 8}, HierarchyError, "page 0 takes 9 bytes, tier 'gpu' holds 8"),
        ({"capacity": 0}, HierarchyError, "tier 'gpu' has capacity 0; give a positive number"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_cannot_be_counted_is_refused(given, error, message):
    plain = {"policy": "fifo", "parts": [np.array([0, 1, 2])], "blocks": 3, "capacity": 2}
    with pytest.raises(error, match=message):
        hits_of(**plain | given)


def test_more_accesses_than_clocks_count_are_refused(monkeypatch):
    monkeypatch.setattr(flat, "MOST", 4)
    parts = [np.array([0, 1, 2])] * 2
    with pytest.raises(HierarchyError, match="more than 4 accesses are not supported"):
        hits_of("lfu", parts, 3, 2)
    assert MOST == 2**31 - 2

"""The shortcut for LRU, the metrics' names, and input that cannot be replayed."""

import numpy as np
import pytest
from hypothesis import given, settings
from stepping import SEEDS, page_trace, rng_of, tiers_for, tree_trace, whole

from kv_cache_rl.core.hardware import Link
from kv_cache_rl.sim.hierarchy.audit import check
from kv_cache_rl.sim.hierarchy.dynamics import new_state
from kv_cache_rl.sim.hierarchy.engine import run
from kv_cache_rl.sim.hierarchy.policies import POLICIES
from kv_cache_rl.sim.hierarchy.score import METRICS, metrics
from kv_cache_rl.sim.hierarchy.spec import HierarchyError, Scenario, Tier, one_tier, physical
from kv_cache_rl.sim.hierarchy.stack import applies
from kv_cache_rl.sim.hierarchy.traces.trace import pages
from kv_cache_rl.traces.errors import TraceError


@given(seed=SEEDS)
@settings(max_examples=150, deadline=None)
def test_the_lru_stack_is_the_engine_bit_for_bit(seed):
    rng = rng_of(seed)
    sized = rng.random() < 0.5
    trace = page_trace(rng) if sized else pages("counted", page_trace(rng).run_start)
    unit = 8 if sized else 1
    scenario = tiers_for(
        rng, rng.randint(1, 4), unit, unit * rng.choice((2, 7, 20)), compute_s=rng.choice((0.0, 0.3))
    )
    assert applies(new_state(trace, scenario, "lru"), scenario)
    short, long = run(trace, scenario, "lru"), whole(trace, scenario, "lru")
    assert short.metrics == metrics(long, trace, scenario)
    for name in ("latency", "hits", "served", "counters"):
        assert getattr(short.state, name).tobytes() == getattr(long, name).tobytes()
    assert short.state.page["tier"].tolist() == long.page["tier"].tolist()
    assert short.state.sums.seconds == pytest.approx(long.sums.seconds)
    check(short.state)


@pytest.mark.parametrize(
    "rules",
    [{"overlap": True}, {"recompute": True}, {"squeeze": "int8"}, {"promotion": "step"}],
    ids=lambda rules: next(iter(rules)),
)
def test_the_stack_stands_aside_where_a_step_depends_on_more_than_order(rules):
    scenario = tiers_for(rng_of(1), 3, 16, 80, **rules)
    trace = page_trace(rng_of(2))
    assert not applies(new_state(trace, scenario, "lru"), scenario)
    assert not applies(new_state(trace, tiers_for(rng_of(1), 3, 16, 80), "fifo"), scenario)
    assert (
        run(trace, scenario, "lru").state.latency.tobytes() == whole(trace, scenario, "lru").latency.tobytes()
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_every_run_has_every_metric_and_parts_add_up(policy):
    trace, scenario = page_trace(rng_of(3), largest=3), tiers_for(rng_of(4), 3, 40, 90)
    found = run(trace, scenario, policy)
    assert tuple(found.metrics) == METRICS
    assert found.metrics["accesses"] == trace.accesses == 150
    assert found.metrics["miss_count"] == 150 - found.state.hits.sum()
    assert sum(found.metrics["tier_hit_rate"].values()) + found.metrics["recompute_rate"] == pytest.approx(1)
    sequences, line = found.by_sequence(), found.time_line(7)
    assert sequences["hits"].sum() == found.state.hits.sum() and sequences["accesses"].sum() == 150
    assert sequences["seconds"].sum() == pytest.approx(found.state.latency.sum())
    assert {len(column) for column in line.values()} == {7}


LINK = Link("link", 1.0, 1.0, 0.0)
NAN = float("nan")


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: one_tier(0), "tier 'gpu' has capacity 0; give a positive number"),
        (lambda: one_tier(NAN), "tier 'gpu' has capacity nan; give a positive number"),
        (lambda: one_tier(float("inf")), "tier 'gpu' has capacity inf; give a positive number"),
        (lambda: one_tier(10**30), "give a positive number below"),
        (lambda: one_tier("25%"), "tier 'gpu' has capacity '25%'; give a positive number"),
        (lambda: one_tier(None), "tier 'gpu' has capacity None; give a positive number"),
        (lambda: Scenario(()), "the scenario has no tier; give at least one"),
        (
            lambda: Scenario((Tier("a", 1, LINK), Tier("a", 2, LINK))),
            "two tiers have the same name; name each differently",
        ),
        (
            lambda: one_tier(8, footprint="fp7"),
            "unknown footprint 'fp7'; did you mean fp8. use one of fp16, fp8",
        ),
        (lambda: one_tier(8, squeeze="fp8"), "unknown squeeze 'fp8'; use one of fp16, int8, int4"),
        (lambda: one_tier(8, promotion="up"), "unknown promotion 'up'; use one of top, step"),
        (lambda: one_tier(8, hardware="abacus"), "unknown hardware 'abacus'; use one of"),
        (lambda: one_tier(8, work_class="poems"), "unknown work_class 'poems'; use one of"),
        (lambda: one_tier(8, compute_s=NAN), "compute_s nan must be finite, 0 or more"),
        (lambda: one_tier(8, compute_s=float("inf")), "compute_s inf must be finite, 0 or more"),
        (lambda: one_tier(8, max_prefetch=-1), "max_prefetch -1 and compute_s 0.0 must be finite, 0 or more"),
        (
            lambda: Scenario((Tier("a", 8, LINK, read_s=NAN),)),
            "tier 'a': latencies must be 0 or more, rates above 0",
        ),
        (
            lambda: Scenario((Tier("a", 8, LINK, write_s=-1.0),)),
            "tier 'a': latencies must be 0 or more, rates above 0",
        ),
        (
            lambda: Scenario((Tier("a", 8, Link("slow", 0.0, 1.0)),)),
            "tier 'a': latencies must be 0 or more, rates above 0",
        ),
        (
            lambda: Scenario((Tier("a", 8, Link("odd", NAN, 1.0)),)),
            "tier 'a': latencies must be 0 or more, rates above 0",
        ),
        (lambda: one_tier(8).scaled(1, 100), "tier 'gpu' has capacity 0"),
        (lambda: physical(0, 0, 0, 0), "the scenario has no tier"),
        (
            lambda: run(one_tier(8), pages("p", np.array([0])), "lru"),
            r"is no Trace; give what load_trace or pages returns",
        ),
        (lambda: run(pages("p", np.array([0])), 8, "lru"), "8 is no Scenario; give what one_tier returns"),
        (
            lambda: run(pages("p", np.array([0])), one_tier(8), "clock"),
            "unknown policy 'clock'; use one of lru, fifo",
        ),
        (
            lambda: run(pages("p", np.array([0, 1]), np.array([8, 9])), one_tier(8), "lru"),
            "page 1 takes 9 bytes, tier 'gpu' holds 8; enlarge the tier",
        ),
    ],
)
def test_what_cannot_be_replayed_says_why(act, message):
    with pytest.raises(HierarchyError, match=message):
        act()


def test_a_trace_without_requests_is_none():
    with pytest.raises(TraceError, match="the trace has no requests"):
        pages("empty", np.array([], np.int64))


def test_promotion_by_steps_is_for_pages():
    with pytest.raises(HierarchyError, match="promotion 'step' needs a plain page trace"):
        new_state(tree_trace(rng_of(1)), one_tier(8, promotion="step"), "lru")

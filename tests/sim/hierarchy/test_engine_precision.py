"""Precision as an action, and loading against computing: bytes, seconds and answers by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from stepping import SEEDS, page_trace, rng_of, tiers_for, tree_trace, whole

from kv_cache_rl.core.hardware import Link
from kv_cache_rl.core.precision import PRECISIONS
from kv_cache_rl.sim.hierarchy.dynamics import new_state
from kv_cache_rl.sim.hierarchy.engine import run
from kv_cache_rl.sim.hierarchy.policies import POLICIES
from kv_cache_rl.sim.hierarchy.spec import HierarchyError, Scenario, Tier, one_tier, recompute_seconds
from kv_cache_rl.sim.hierarchy.traces.trace import pages

COMPUTE = recompute_seconds("a100-llama-3.1-8b", 16, 1)[1]
CODE = {name: PRECISIONS[name].loss["code"] for name in ("int8", "int4")}


def two_tiers(fast=64, slow=640, rate=1000.0, **rules):
    """64 bytes over 640; the tiers' own memory 1,000 bytes a second, the link between them `rate`."""
    link = Link("between", rate, rate, 0.0)
    return Scenario((Tier("fast", fast, Link("own", 1000.0, 1000.0, 0.0)), Tier("slow", slow, link)), **rules)


def trace_of_pages(*ids):
    return pages("by hand", np.array(ids), 64)


def place(state, page):
    """Tier of a page and the rungs it is compressed."""
    return [state.page[page].tier, state.page[page].level]


def test_a_victim_is_compressed_where_it_lies_before_it_leaves_and_its_bytes_are_read_and_written():
    state = whole(trace_of_pages(0, 1), two_tiers(squeeze="int4"), "lru")
    assert place(state, 0) == [1, 2]
    assert place(state, 1) == [0, 0]
    squeezing = (64 + 32 + 32 + 16) / 1000
    crossing = 16 / 1000  # a quarter of the page goes down
    assert state.latency[1] == pytest.approx(COMPUTE + 64 / 1000 + 64 / 1000 + squeezing + crossing)


@pytest.mark.parametrize(
    ("squeeze", "level", "up", "down", "compressions"),
    [("fp16", 0, 64, 64 + 64, 0), ("int8", 1, 32, 32, 2), ("int4", 2, 16, 16, 2 + 1)],
)
def test_a_compressed_page_moves_and_is_read_at_its_size_and_costs_answers_where_it_is_used(
    squeeze, level, up, down, compressions
):
    """0 goes down and comes back as small as it became; beside it 1 has room once it takes half as much."""
    found = run(trace_of_pages(0, 1, 0), two_tiers(squeeze=squeeze), "lru")
    assert found.metrics["link_bytes"]["slow"] == {"up": up, "down": down}
    assert found.metrics["compressions"] == compressions
    assert found.metrics["quality_loss"] == pytest.approx(CODE.get(squeeze, 0.0) / 3)
    assert place(found.state, 0) == [0, level]


def test_a_page_that_is_dropped_comes_back_at_full_precision():
    found = run(trace_of_pages(0, 1, 0, 0), one_tier(64, squeeze="int4"), "lru")
    assert found.metrics["quality_loss"] == 0
    assert found.state.page["level"].tolist() == [0, 0]


def test_a_page_computed_anew_is_whole_again_and_costs_no_answers():
    slow = two_tiers(rate=1.0, squeeze="int4", recompute=True)
    found = run(trace_of_pages(0, 1, 0), slow, "lru")
    assert found.metrics["recomputed_from_below"] == 1
    assert found.metrics["link_bytes"]["slow"] == {"up": 0, "down": 32}
    assert found.metrics["quality_loss"] == 0
    assert place(found.state, 0) == [0, 0]
    assert found.metrics["tier_hit_rate"]["slow"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("rate", [1e3, 1e5, 3e5, 1e6, 1e9])
@pytest.mark.parametrize("levels", [2, 3])
def test_the_faster_of_loading_and_computing_is_chosen(rate, levels):
    """Page 0 has gone to the lowest tier; what it takes to get it back is the lesser of both, links being at
    rest.
    """
    link, own = Link("between", rate, rate, 1e-5), Link("own", 2e6, 2e6, 0.0)
    names = ("host", "disk")[: levels - 1]
    tiers = (Tier("gpu", 64, own, 0, 1e-4), *(Tier(name, 64, link, 2e-4, 0) for name in names))
    trace = trace_of_pages(*range(levels), 0)
    took = {
        recompute: whole(
            trace, Scenario(tiers, recompute=recompute, overlap=True, compute_s=1e6), "lru"
        ).latency[-1]
        for recompute in (False, True)
    }
    load = 2e-4 + 1e-4 + (levels - 1) * 1e-5 + 64 / rate + 64 / 2e6
    compute = COMPUTE + 1e-4 + 64 / 2e6 + 64 / 2e6
    assert took[False] == pytest.approx(load)
    assert took[True] == pytest.approx(min(load, compute))


@pytest.mark.parametrize("footprint", ["fp16", "fp8", "int8", "int4", "int2"])
def test_a_footprint_scales_every_page_and_costs_its_published_loss(footprint):
    trace, precision = trace_of_pages(0, 1, 0, 1), PRECISIONS[footprint]
    found = run(trace, two_tiers(fast=128, footprint=footprint), "lru")
    assert found.metrics["peak_footprint_bytes"]["fast"] == 2 * 64 * precision.multiplier
    loss = precision.loss.get("code")
    assert found.metrics["quality_loss"] == (None if loss is None else pytest.approx(loss / 2))


@pytest.mark.parametrize("policy", POLICIES)
@given(seed=SEEDS)
@settings(max_examples=10, deadline=None)
def test_precision_falls_only_by_the_rungs_allowed_and_pages_nowhere_have_all_of_it(policy, seed):
    rng = rng_of(seed)
    trace = page_trace(rng, largest=3) if rng.random() < 0.5 else tree_trace(rng, largest=3)
    squeeze = rng.choice(("fp16", "int8", "int4"))
    state = whole(trace, tiers_for(rng, 3, 24, 80, squeeze=squeeze, recompute=rng.random() < 0.5), policy)
    levels = state.page["level"]
    assert levels.max() <= ("fp16", "int8", "int4").index(squeeze)
    assert (levels[state.page["tier"] < 0] == 0).all()
    assert (levels[state.page["tier"] == 2] == ("fp16", "int8", "int4").index(squeeze)).all()
    assert state.counters.wasted == 0


def test_a_policy_that_frees_the_largest_compresses_another_page_once_the_largest_is_not():
    trace = pages("two", np.array([0, 1, 2]), np.array([64, 48, 40]))
    state = whole(trace, one_tier(112, squeeze="int8"), "largest_first")
    assert state.page["level"].tolist() == [1, 1, 0]  # 64 to 32, then 48, the largest now, to 24
    assert state.page["tier"].tolist() == [0, 0, 0]
    assert (state.page["full_bytes"] == [64, 48, 40]).all()


def test_pages_too_small_to_be_compressed_are_refused():
    with pytest.raises(HierarchyError, match="page 1 has 3 bytes, none at int4; use larger pages"):
        new_state(pages("tiny", np.array([0, 1]), np.array([4, 3])), one_tier(8, squeeze="int4"), "lru")


def test_precision_cannot_matter_without_bytes_or_twice():
    with pytest.raises(
        HierarchyError, match="does not know the bytes of its blocks, precision cannot matter; give a model"
    ):
        new_state(pages("counted", np.array([0, 1])), one_tier(4, squeeze="int8"), "lru")
    with pytest.raises(HierarchyError, match="squeeze 'int8' starts from fp16 pages, not 'fp8'; drop one"):
        replace(one_tier(64, footprint="fp8"), squeeze="int8")

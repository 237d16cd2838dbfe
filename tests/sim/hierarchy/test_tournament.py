"""Ranks whose keys drift: a tournament names the victim that a scan of all keys names."""

import numpy as np
import pytest
from hypothesis import given, settings
from stepping import SEEDS, page_trace, rng_of, tiers_for, tree_trace

from kv_cache_rl.policies.rank import RANKS
from kv_cache_rl.sim.hierarchy.audit import check
from kv_cache_rl.sim.hierarchy.dynamics import advance, new_state
from kv_cache_rl.sim.hierarchy.policies import POLICIES, order_of
from kv_cache_rl.sim.hierarchy.spec import one_tier
from kv_cache_rl.sim.hierarchy.state import Order
from kv_cache_rl.sim.hierarchy.tournament import matches_for
from kv_cache_rl.sim.hierarchy.traces.trace import expand, pages

MATCHED = [name for name in POLICIES if order_of(name) == Order.MATCHED]
few = settings(max_examples=25, deadline=None)


def beside_a_scan(trace, scenario, policy, every=1, **tuning):
    """Replays under both orders, and compares tiers, places and latencies after so many requests each."""
    matched, scanned = (new_state(trace, scenario, policy, **tuning) for _ in range(2))
    scanned.settings.order = Order.SCANNED
    first, blocks = expand(trace)
    for start in range(0, trace.requests, every):
        for state in (matched, scanned):
            advance(state, first, blocks, start, min(start + every, trace.requests))
        assert (matched.page == scanned.page).all()
        assert (matched.heap == scanned.heap).all()
    check(matched)
    assert (matched.latency == scanned.latency).all() and (matched.served == scanned.served).all()
    return matched


def test_the_ranks_that_drift_foretell_when():
    drifting = [name for name, rank in RANKS.items() if not rank.stands_still and name != "random"]
    assert drifting == MATCHED


@pytest.mark.parametrize("policy", MATCHED)
@given(seed=SEEDS)
@few
def test_victims_are_those_of_a_scan_over_pages_and_tiers_of_any_size(policy, seed):
    rng = rng_of(seed)
    trace = page_trace(rng, accesses=200, count=rng.choice((9, 40)), largest=rng.choice((1, 1, 5)))
    rules = {"promotion": rng.choice(("top", "step")), "squeeze": rng.choice(("fp16", "int4"))}
    beside_a_scan(trace, tiers_for(rng, rng.randint(1, 3), 40, 90, **rules), policy, every=rng.choice((1, 7)))


@pytest.mark.parametrize("policy", MATCHED)
@given(seed=SEEDS)
@few
def test_victims_are_those_of_a_scan_in_prefix_trees(policy, seed):
    rng = rng_of(seed)
    trace = tree_trace(rng, largest=rng.choice((1, 3)))
    scenario = tiers_for(rng, rng.randint(1, 3), 240, 400, reserve=rng.choice(("none", "20%")))
    beside_a_scan(trace, scenario, policy)


@pytest.mark.parametrize("policy", MATCHED)
def test_victims_are_those_of_a_scan_where_return_hazards_are_learnt_anew(policy):
    """Over three estimates of the hazards, many of which are 0."""
    rng = np.random.default_rng(4)
    ids = np.where(rng.random(52_000) < 0.5, rng.integers(0, 60, 52_000), 60 + np.arange(52_000))
    trace = pages("new ones and others", np.unique(ids, return_inverse=True)[1])
    state = beside_a_scan(trace, one_tier(300), policy, every=4_000)
    assert policy != "ttl" or (state.hazard == 0).any()


@pytest.mark.parametrize("policy", MATCHED)
def test_equal_keys_and_rounding_decide_as_in_a_scan(policy):
    """Keys so large that accesses of long ago no longer differ, and pages that leave as they came."""
    sizes = np.where(np.arange(60) % 3 == 0, 2**57, 2**57 - 2**12)
    ids = np.concatenate([np.arange(60), np.random.default_rng(2).integers(0, 60, 900)])
    trace = pages("large", ids, sizes)
    beside_a_scan(trace, one_tier(20 * 2**57), policy)


def test_a_tournament_has_room_for_all_pages():
    assert [matches_for(pages) for pages in (1, 2, 3, 4, 5, 1 << 20)] == [2, 2, 4, 4, 8, 1 << 20]

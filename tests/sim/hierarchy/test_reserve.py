"""Room kept free in the fastest tier ahead of demand: the rule against the plain model, and what `stability`
keeps.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from plain_hierarchy import Hierarchy
from stepping import SEEDS, page_trace, resident, rng_of, stepped, tiers_for, tree_trace

from kv_cache_rl.core.hardware import Link
from kv_cache_rl.sim.hierarchy.audit import check
from kv_cache_rl.sim.hierarchy.engine import run
from kv_cache_rl.sim.hierarchy.policies import POLICIES
from kv_cache_rl.sim.hierarchy.spec import RESERVES, HierarchyError, Scenario, Tier
from kv_cache_rl.sim.hierarchy.traces.trace import expand, pages, parents
from kv_cache_rl.theory.controller import QueueingController
from kv_cache_rl.theory.flow import new_flow

few = settings(max_examples=12, deadline=None)


class Keeping(Hierarchy):
    """The plain model that makes a share of its fastest tier free after each request."""

    def __init__(self, share, *arguments):
        super().__init__(*arguments)
        self.kept = int(share * self.scenario.tiers[0].capacity)

    def request(self, blocks):
        super().request(blocks)
        self.make_room(0, self.kept, "demand")
        if not self.scenario.overlap:
            waited = max((line.run() for line in self.lines[1:]), default=0.0)
            self.latency[-1] += waited
            self.now += waited
            self.at += waited


def rules(rng, reserve):
    return {"overlap": rng.random() < 0.5, "compute_s": rng.choice((0.0, 0.05, 0.5)), "reserve": reserve}


@pytest.mark.parametrize("chained", [False, True])
@given(seed=SEEDS)
@few
def test_a_fixed_reserve_moves_pages_and_takes_time_as_plain_rules_say(chained, seed):
    rng = rng_of(seed)
    trace = tree_trace(rng, largest=4) if chained else page_trace(rng, largest=4)
    reserve = rng.choice(("5%", "10%", "20%"))
    scenario = tiers_for(rng, rng.randint(1, 3), 100, 300, **rules(rng, reserve))
    sizes = np.broadcast_to(trace.page_bytes, trace.blocks).tolist()
    parent = parents(trace).tolist() if trace.chained else None
    model = Keeping(RESERVES[reserve], scenario, "lru", sizes, parent, trace.block_tokens)
    first, blocks = expand(trace)
    for request, state in enumerate(stepped(trace, scenario, "lru")):
        model.request(blocks[first[request] : first[request + 1]].tolist())
        assert [resident(state, tier) for tier in range(len(model.tiers))] == model.tiers
        assert state.latency[request] == pytest.approx(model.latency[-1], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("policy", POLICIES)
@given(seed=SEEDS)
@few
def test_under_every_policy_the_reserve_is_free_after_each_request_and_the_books_balance(policy, seed):
    rng = rng_of(seed)
    trace = (
        page_trace(rng, accesses=60, largest=3)
        if rng.random() < 0.5
        else tree_trace(rng, requests=20, largest=3)
    )
    reserve = rng.choice(("10%", "20%", "stability"))
    scenario = tiers_for(rng, rng.randint(1, 3), 100, 300, **rules(rng, reserve))
    for state in stepped(trace, scenario, policy):
        check(state)
        capacity, used = state.tiers[0].capacity, state.tiers[0].used
        assert capacity - used >= max(int(RESERVES[reserve] * capacity), 1)


@given(seed=SEEDS)
@few
def test_stability_keeps_what_the_controller_says_and_no_page_more_than_that_takes(seed):
    rng = rng_of(seed)
    trace = tree_trace(rng, requests=60)
    scenario = tiers_for(rng, 2, 15, 40, **rules(rng, "stability") | {"overlap": True})
    capacity = scenario.tiers[0].capacity
    controller = QueueingController(mode="reserve")
    first, blocks = expand(trace)
    before, now = set(), 0.0
    for request, state in enumerate(stepped(trace, scenario, "lru")):
        asked = set(blocks[first[request] : first[request + 1]].tolist())
        spent = state.sums.seconds - now
        controller.record_request_arrival(now)
        now = float(state.sums.seconds)
        controller.record_request_completion(now, 1000 * spent, len(asked - before))
        decision = controller.eviction_decision(0, capacity, 0, now, active=0)
        wanted = controller.compute_stability_state(0, capacity, now).minimum_stable_blocks
        here = resident(state)
        free = capacity - len(here)
        assert free >= wanted - 1 and (decision.blocks in (0, wanted) or wanted == capacity)
        if free > wanted + 1:
            assert not (before | asked) - here, "pages left although the reserve was free without that"
        before = here


def test_without_a_reserve_nothing_is_estimated_and_nothing_moves_ahead():
    trace = page_trace(rng_of(1), accesses=200)
    state = run(trace, tiers_for(rng_of(1), 2, 60, 100), "lfu").state
    assert np.array_equal(state.flow, new_flow())
    assert state.tiers[0].capacity - state.tiers[0].used < state.page["full_bytes"].max()


def test_lru_over_equal_pages_takes_no_shortcut_past_the_reserve():
    trace = pages("sweep", np.arange(50) % 10, np.full(10, 8))
    for reserve in ("20%", "stability"):
        state = run(
            trace, Scenario((Tier("gpu", 80, Link("l", 100.0, 100.0)),), reserve=reserve), "lru"
        ).state
        assert (state.page["tier"] == 0).sum() < 10
    assert (
        run(trace, Scenario((Tier("gpu", 80, Link("l", 100.0, 100.0)),)), "lru").state.page["tier"] == 0
    ).all()


def bursts(requests=400, size=20, documents=60):
    """Requests over whole documents, three in four of them one of the last few: what a burst brings has to
    find room.
    """
    rng, recent, ids = rng_of(3), [], []
    for _ in range(requests):
        document = rng.choice(recent[-6:]) if recent and rng.random() < 0.6 else rng.randrange(documents)
        recent.append(document)
        ids.append(document)
    return ids, size


def test_it_spares_misses_the_wait_behind_demotions_and_costs_fewer_hits_than_a_large_fixed_reserve():
    """A link that slows down when both ways are busy (PCIe 4: 24.8 and 11 GB/s), and compute between
    requests.
    """
    ids, _ = bursts(requests=3000)
    trace = pages("bursts", np.array(ids), np.full(60, 1000))
    link = Link("pcie4", 24_800.0, 11_000.0)

    def measured(reserve):
        tiers = (Tier("gpu", 20_000, Link("hbm", 1e9, 1e9)), Tier("host", 100_000, link))
        return run(trace, Scenario(tiers, overlap=True, compute_s=0.1, reserve=reserve), "lru").metrics

    found = {reserve: measured(reserve) for reserve in RESERVES}
    assert found["stability"]["avg_latency_ms"] < found["none"]["avg_latency_ms"]
    assert found["stability"]["avg_latency_ms"] < min(
        found[share]["avg_latency_ms"] for share in ("10%", "20%")
    )
    assert (
        found["none"]["hit_rate"]
        >= found["stability"]["hit_rate"]
        >= found["10%"]["hit_rate"]
        > found["20%"]["hit_rate"]
    )


def test_an_unknown_reserve_is_refused_with_the_known_ones():
    with pytest.raises(
        HierarchyError,
        match=r"unknown reserve '15%'; did you mean 5%\? use one of none, 5%, 10%, 20%, stability",
    ):
        tiers_for(rng_of(0), 1, 10, 20, reserve="15%")

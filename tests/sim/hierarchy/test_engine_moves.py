"""Moves, bytes and seconds of the default engine against the same rules written plainly, by request."""

import numpy as np
import pytest
from hypothesis import given, settings
from plain_hierarchy import KEYS, Hierarchy
from stepping import SEEDS, page_trace, resident, rng_of, stepped, tiers_for, tree_trace, whole

from kv_cache_rl.sim.hierarchy.audit import check
from kv_cache_rl.sim.hierarchy.engine import run
from kv_cache_rl.sim.hierarchy.policies import POLICIES
from kv_cache_rl.sim.hierarchy.score import metrics
from kv_cache_rl.sim.hierarchy.spec import recompute_seconds
from kv_cache_rl.sim.hierarchy.state import DEMAND, DOWN, UP
from kv_cache_rl.sim.hierarchy.traces.trace import expand, parents

some = settings(max_examples=40, deadline=None)
few = settings(max_examples=12, deadline=None)


def setting(rng, trace, chained=False):
    """Random tiers and rules that the trace allows."""
    sized = bool(np.any(trace.page_bytes))
    unit = 8 if sized else 1
    rules = {
        "prefetch": rng.random() < 0.7,
        "max_prefetch": rng.randint(0, 5),
        "overlap": rng.random() < 0.5,
        "compute_s": rng.choice((0.0, 0.05, 0.5)),
        "recompute": rng.random() < 0.5,
        "squeeze": rng.choice(("fp16", "int8", "int4")) if sized else "fp16",
        "promotion": "top" if chained else rng.choice(("top", "step")),
        "work_class": rng.choice(("chat", "reasoning")),
    }
    return tiers_for(rng, rng.randint(1, 4), unit * 4, unit * 20, **rules)


def plainly(trace, scenario, policy):
    """The plain model after each request."""
    sizes = np.broadcast_to(np.where(np.any(trace.page_bytes), trace.page_bytes, 1), trace.blocks).tolist()
    parent = parents(trace).tolist() if trace.chained else None
    model = Hierarchy(scenario, policy, sizes, parent, trace.block_tokens)
    first, blocks = expand(trace)
    for request in range(trace.requests):
        model.request(blocks[first[request] : first[request + 1]].tolist())
        yield model


def assert_same(trace, scenario, policy):
    for state, model in zip(stepped(trace, scenario, policy), plainly(trace, scenario, policy), strict=True):
        assert [resident(state, tier) for tier in range(len(model.tiers))] == model.tiers
        done = len(model.latency)
        assert state.latency[done - 1] == pytest.approx(model.latency[-1], rel=1e-9, abs=1e-9)
    found, names = metrics(state, trace, scenario), [tier.name for tier in scenario.tiers]
    up, down = (
        [sum(model.crossed[k, way, c] for c in ("demand", "prefetch")) for k in range(9)]
        for way in ("up", "down")
    )
    assert found["link_bytes"] == {name: {"up": up[k], "down": down[k]} for k, name in enumerate(names) if k}
    assert found["prefetch_bytes_moved"] == sum(
        n for (_, _, cause), n in model.crossed.items() if cause == "prefetch"
    )
    assert found["demand_bytes_moved"] == sum(
        n for (_, _, cause), n in model.crossed.items() if cause == "demand"
    )
    assert [found["eviction_count"], found["drop_count"]] == [model.count["evictions"], model.count["drops"]]
    assert [found["compressions"], found["recomputed_from_below"]] == [
        model.count["compressions"],
        model.count["recomputed"],
    ]
    assert [found["prefetch_requests"], found["useful_prefetches"]] == [
        model.count["prefetches"],
        model.count["useful"],
    ]
    assert found["wasted_prefetches"] == model.count["wasted"] + len(model.pending)
    assert list(found["tier_hit_rate"].values()) == [
        model.served[k] / trace.accesses for k in range(len(names))
    ]
    assert found["recompute_rate"] == model.served[None] / trace.accesses
    assert list(found["peak_footprint_bytes"].values()) == model.peak
    assert found["quality_loss"] == pytest.approx(model.loss / trace.accesses)
    assert found["avg_latency_ms"] == pytest.approx(1e3 * sum(model.latency) / trace.requests)


@pytest.mark.parametrize("policy", KEYS)
@given(seed=SEEDS)
@some
def test_pages_move_and_take_the_time_that_plain_rules_say(policy, seed):
    rng = rng_of(seed)
    trace = page_trace(
        rng, accesses=rng.randint(1, 120), count=rng.randint(5, 24), largest=rng.choice((1, 4))
    )
    assert_same(trace, setting(rng, trace), policy)


@pytest.mark.parametrize("policy", [name for name in KEYS if name != "predictive"])
@given(seed=SEEDS)
@some
def test_prefixes_move_and_take_the_time_that_plain_rules_say(policy, seed):
    rng = rng_of(seed)
    trace = tree_trace(rng, largest=rng.choice((0, 1, 4)))
    assert_same(trace, setting(rng, trace, chained=True), policy)


@given(seed=SEEDS)
@some
def test_a_prefetch_is_charged_with_all_it_moves_and_is_useful_or_wasted(seed):
    """A cycle longer than the top: everything that follows is predicted."""
    rng = rng_of(seed)
    trace = page_trace(rng, count=12, largest=2)
    scenario = tiers_for(rng, rng.randint(2, 4), 32, 64, prefetch=True, max_prefetch=2)
    found = run(trace, scenario, "predictive").metrics
    assert found["useful_prefetches"] + found["wasted_prefetches"] == found["prefetch_requests"]
    assert found["demand_bytes_moved"] + found["prefetch_bytes_moved"] == found["bytes_moved"]
    assert found["bytes_moved"] == sum(ways["up"] + ways["down"] for ways in found["link_bytes"].values())
    assert_same(trace, scenario, "predictive")


def any_policy(rng, chained):
    """A trace, its scenario."""
    trace = (
        tree_trace(rng, requests=25, largest=rng.choice((0, 4)))
        if chained
        else page_trace(rng, accesses=80, largest=4)
    )
    return trace, setting(rng, trace, chained)


@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
@given(seed=SEEDS)
@few
def test_under_every_policy_the_books_balance_after_every_request(policy, chained, seed):
    trace, scenario = any_policy(rng_of(seed), chained)
    accesses = 0
    for request, state in enumerate(stepped(trace, scenario, policy)):
        check(state)
        accesses += int(trace.lengths[request])
        assert state.served.sum() == accesses
        assert (state.tiers["peak"] <= state.tiers["capacity"]).all() and (
            state.tiers["used"] <= state.tiers["peak"]
        ).all()
        assert np.isfinite(state.latency).all() and state.latency[request] > 0
    assert state.hits.sum() == state.served[0]


@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
@given(seed=SEEDS)
@few
def test_under_every_policy_what_crossed_a_link_is_what_changed_sides(policy, chained, seed):
    """From where every page lay before and after a request: up from where it was found, down to where it
    ended.
    """
    rng = rng_of(seed)
    trace = tree_trace(rng, requests=25, largest=4) if chained else page_trace(rng, accesses=80, largest=4)
    scenario = tiers_for(rng, rng.randint(2, 4), 32, 160)
    first, blocks = expand(trace)
    tiers, size = len(scenario.tiers), None
    up, down, before = np.zeros(tiers, int), np.zeros(tiers, int), np.full(trace.blocks, -1)
    for request, state in enumerate(stepped(trace, scenario, policy)):
        size, after = state.page["full_bytes"], state.page["tier"].copy()
        path = blocks[first[request] : first[request + 1]].tolist()
        found = next((i for i, page in enumerate(path) if before[page] < 0), len(path))
        for page in path[:found]:
            up[1 : before[page] + 1] += size[page]
        start = before.copy()
        start[path] = 0
        for page in np.flatnonzero((start >= 0) & (start != after)):
            end = after[page] if after[page] >= 0 else tiers - 1
            down[start[page] + 1 : end + 1] += size[page]
        before = after
    assert state.tiers["crossed"][1:, UP, DEMAND].tolist() == up[1:].tolist()
    assert state.tiers["crossed"][1:, DOWN, DEMAND].tolist() == down[1:].tolist()
    for tier in range(
        1, tiers
    ):  # of a tier and all below it: what came down is there, went up again, or was dropped
        assert down[tier] >= up[tier] + sum(size[before == lower].sum() for lower in range(tier, tiers))


@given(seed=SEEDS)
@some
def test_overlap_makes_no_request_end_later(seed):
    """For the same moves, on links whose two directions together carry no less than one: proven per link, as
    they are work conserving. (A link that loses more than half its rate while both directions are busy is
    better used one way at a time.)"""
    rng = rng_of(seed)
    chained = rng.random() < 0.5
    trace = tree_trace(rng, largest=3) if chained else page_trace(rng, largest=3)
    rules = {"prefetch": True, "compute_s": rng.choice((0.0, 0.1)), "squeeze": rng.choice(("fp16", "int4"))}
    policy, seed = rng.choice(("predictive", "lru", "gdsf", "sieve")), rng.random()
    waited, hidden = (
        whole(trace, tiers_for(rng_of(seed), 3, 32, 100, overlap=overlap, **rules), policy)
        for overlap in (False, True)
    )
    assert (hidden.page == waited.page).all()
    assert (np.cumsum(hidden.latency) <= np.cumsum(waited.latency) * (1 + 1e-9)).all()
    assert hidden.sums.loss == waited.sums.loss


def test_a_cold_page_is_computed_written_and_read():
    trace, scenario = page_trace(rng_of(1), accesses=1), tiers_for(rng_of(2), 2, 64, 64)
    fast, (_, compute) = scenario.tiers[0], recompute_seconds("a100-llama-3.1-8b", trace.block_tokens, 1)
    write, read = (wait + 8 / fast.link.one_way for wait in (fast.write_s, fast.read_s))
    assert whole(trace, scenario, "lru").latency[0] == pytest.approx(compute + write + read)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_page_asked_for_ends_at_the_top_however_small_it_is(policy):
    rng = rng_of(7)
    trace, scenario = page_trace(rng, largest=2), tiers_for(rng, 3, 16, 16)
    for page, state in zip(trace.run_start, stepped(trace, scenario, policy), strict=True):
        assert state.page[page].tier == 0


@given(seed=SEEDS)
@some
def test_step_promotion_lands_one_tier_up(seed):
    rng = rng_of(seed)
    trace, scenario = page_trace(rng), tiers_for(rng, 4, 16, 48, promotion="step")
    before = np.full(trace.blocks, -1)
    for page, state in zip(trace.run_start, stepped(trace, scenario, "lru"), strict=True):
        assert state.page[page].tier == max(before[page] - 1, 0)
        before = state.page["tier"].copy()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("chained", [False, True])
def test_a_replay_in_pieces_is_the_replay(policy, chained):
    trace, scenario = any_policy(rng_of(11), chained)
    once = whole(trace, scenario, policy)
    *_, pieces = stepped(trace, scenario, policy)
    assert all(np.array_equal(a, b) for a, b in zip(once, pieces, strict=True))

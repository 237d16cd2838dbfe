"""Prefix trees in the default engine: what counts as a hit, what may leave, what bounds it, and what is
published.
"""

import numpy as np
import pytest
from block_replay import heap_replay, leading, ordered_dict_lru, paths_of, trace_of
from hypothesis import given, settings
from stepping import SEEDS, page_trace, resident, rng_of, stepped, tiers_for, tree_trace, whole

from kv_cache_rl.sim.hierarchy.curves.bound import min_hits
from kv_cache_rl.sim.hierarchy.curves.runs import lru
from kv_cache_rl.sim.hierarchy.engine import run
from kv_cache_rl.sim.hierarchy.policies import POLICIES
from kv_cache_rl.sim.hierarchy.queues import QUEUES
from kv_cache_rl.sim.hierarchy.spec import one_tier
from kv_cache_rl.sim.hierarchy.traces.trace import pages, parents

some = settings(max_examples=40, deadline=None)
few = settings(max_examples=12, deadline=None)


@given(seed=SEEDS)
@some
def test_lru_lfu_and_fifo_hit_what_block_replays_hit(seed):
    trace = tree_trace(rng_of(seed), requests=60)
    paths = paths_of(trace)
    for capacity in (1, 2, 5, 9, 17, 60):
        hits = {
            policy: int(run(trace, one_tier(capacity), policy).state.hits.sum())
            for policy in ("lru", "lfu", "fifo")
        }
        assert hits == {policy: heap_replay(paths, capacity, policy) for policy in hits}
        assert hits["lru"] == lru(trace, capacity) == ordered_dict_lru(paths, capacity)


@pytest.mark.parametrize("policy", POLICIES)
@given(seed=SEEDS)
@few
def test_only_leading_blocks_hit_and_children_leave_before_parents(policy, seed):
    rng = rng_of(seed)
    trace, scenario = tree_trace(rng), tiers_for(rng, rng.randint(1, 3), 3, 25)
    parent, before, served = (
        parents(trace),
        [set() for _ in scenario.tiers],
        np.zeros(len(scenario.tiers) + 1, int),
    )
    for path, state in zip(paths_of(trace), stepped(trace, scenario, policy), strict=True):
        found = leading(path, set().union(*before))
        for page in path:
            tier = next((t for t, here in enumerate(before) if page in here), None)
            served[tier if tier is not None and page in path[:found] else -1] += 1
        assert state.served.tolist() == served.tolist()
        assert state.hits.sum() == served[0]
        if policy not in QUEUES or QUEUES[policy].closed:
            tier = np.where(state.page["tier"] < 0, len(before), state.page["tier"])
            children = np.flatnonzero(parent >= 0)
            assert (tier[parent[children]] <= tier[children]).all()
        before = [resident(state, tier) for tier in range(len(before))]


def test_fifo_knows_no_tree_and_finds_orphans_again():
    trace = trace_of(
        [[0, 1, 2], [9], [0, 1, 2], [9]]
    )  # the second time 2 comes in it pushes out 1, which LRU has seen used
    assert [whole(trace, one_tier(3), policy).hits.tolist() for policy in ("fifo", "lru")] == [
        [0, 0, 2, 1],
        [0, 0, 2, 0],
    ]
    orphans = trace_of(
        [[0], [0, 1], [9], [0], [0, 1]]
    )  # 9 pushes out 0, not its child 1; 1 is found once 0 is back
    assert whole(orphans, one_tier(2), "fifo").hits.tolist() == [0, 1, 0, 0, 1]


@pytest.mark.parametrize("policy", POLICIES)
@given(seed=SEEDS)
@few
def test_no_policy_beats_the_bound(policy, seed):
    rng = rng_of(seed)
    capacity = rng.randint(1, 30)
    for trace in (tree_trace(rng), pages("counted", page_trace(rng).run_start)):
        assert run(trace, one_tier(capacity), policy).state.served[0] <= min_hits(trace, capacity)


@given(seed=SEEDS)
@some
def test_a_larger_lru_cache_holds_all_that_a_smaller_one_holds(seed):
    rng = rng_of(seed)
    trace = tree_trace(rng) if rng.random() < 0.5 else pages("counted", page_trace(rng).run_start)
    small, large = sorted(rng.sample(range(1, 40), 2))
    for less, more in zip(
        stepped(trace, one_tier(small), "lru"), stepped(trace, one_tier(large), "lru"), strict=True
    ):
        assert resident(less) <= resident(more)


@given(seed=SEEDS)
@some
def test_lru_over_tiers_holds_what_one_tier_of_their_sum_holds(seed):
    rng = rng_of(seed)
    trace, scenario = pages("counted", page_trace(rng).run_start), tiers_for(rng, 3, 2, 6)
    one = one_tier(sum(tier.capacity for tier in scenario.tiers))
    for tiers, single in zip(stepped(trace, scenario, "lru"), stepped(trace, one, "lru"), strict=True):
        assert set().union(*(resident(tiers, tier) for tier in range(3))) == resident(single)


@pytest.mark.parametrize("policy", ["lru", "fifo"])
@given(seed=SEEDS)
@few
def test_paths_of_one_block_are_pages(policy, seed):
    """A forest of roots: the same tiers and the same seconds as the page trace. (Others may give away what a
    request has just put in: all of it is put in before blocks leave.)"""
    rng = rng_of(seed)
    ids = page_trace(rng).run_start
    scenario = tiers_for(
        rng, 3, 2, 9, overlap=rng.random() < 0.5, recompute=rng.random() < 0.5, compute_s=0.01
    )
    flat, forest = pages("counted", ids, block_tokens=64), trace_of([[page] for page in ids.tolist()])
    for page, root in zip(stepped(flat, scenario, policy), stepped(forest, scenario, policy), strict=True):
        assert page.served.tolist() == root.served.tolist()
    assert page.latency == pytest.approx(root.latency)
    assert page.page["tier"].tolist() == root.page["tier"].tolist()


@pytest.mark.parametrize("policy", POLICIES)
def test_a_long_chain_with_one_leaf_is_no_dead_end(policy):
    """All blocks but one have children in the tier, whatever list or heap they are in."""
    trunk = list(range(100))
    trace = trace_of([trunk[:90], trunk[:90], trunk[:96], trunk, trunk, [*trunk[:95], 100], [101], trunk])
    state = whole(trace, one_tier(98), policy)
    assert state.served.sum() == trace.accesses
    assert run(trace, tiers_for(rng_of(1), 3, 20, 40), policy).metrics["accesses"] == trace.accesses


MOONCAKE = {
    "lru": {1_000: 4.5, 10_000: 21.2},
    "lfu": {1_000: 4.8, 10_000: 13.2},
    "fifo": {1_000: 4.4, 10_000: 18.1},
}


@pytest.mark.parametrize("policy", MOONCAKE)
def test_the_engine_gives_the_published_hit_rates_of_mooncake(published, policy):
    trace = published("mooncake/conversation_trace.jsonl.gz")
    for capacity, percent in MOONCAKE[policy].items():
        found = run(trace, one_tier(capacity), policy)
        assert round(100 * found.metrics["hit_rate"], 1) == percent
        assert policy != "lru" or found.state.hits.sum() == lru(trace, capacity)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_gets_through_a_real_trace_below_the_bound_and_meets_it_where_all_fits(
    published, policy
):
    trace = published("mooncake/conversation_trace.jsonl.gz")
    short = type(trace)(
        **{name: getattr(trace, name) for name in trace.__dataclass_fields__}
        | {
            "time_s": trace.time_s[:1500],
            "sequence": trace.sequence[:1500],
            "first_run": trace.first_run[:1501],
        }
        | {
            "run_start": trace.run_start[: trace.first_run[1500]],
            "run_length": trace.run_length[: trace.first_run[1500]],
        }
        | {name: getattr(trace, name)[:1500] for name in ("input_tokens", "output_tokens", "ends")}
    )
    assert 1_500 < run(short, one_tier(2_000), policy).state.served[0] <= min_hits(short, 2_000)
    assert run(short, one_tier(short.blocks), policy).state.served[0] == min_hits(short, short.blocks)

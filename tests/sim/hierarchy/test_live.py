"""A tier that an engine drives decides as a replay does, and can spare, remove and forget blocks."""

from collections import OrderedDict

import numpy as np
import pytest

from kv_cache_rl.core.pool import check
from kv_cache_rl.sim.hierarchy import HierarchyError, one_tier
from kv_cache_rl.sim.hierarchy.engine import run
from kv_cache_rl.sim.hierarchy.live import LiveTier
from kv_cache_rl.sim.hierarchy.policies import POLICIES
from kv_cache_rl.sim.hierarchy.state import NONE
from kv_cache_rl.sim.hierarchy.traces.numbering import dense_ids
from kv_cache_rl.sim.hierarchy.traces.trace import pages


def skewed(count, names, seed):
    return (np.random.default_rng(seed).zipf(1.2, count) % names).astype(np.int64)


def played(tier, names):
    """Hits of an LRU-like caller, which makes room for each block that it misses; and who left."""
    hits, gone = [], []
    for name in names:
        hits.append(tier.asked(name))
        if not hits[-1]:
            tier.announced(name)
            if len(tier) == tier.capacity:
                gone += tier.victims(1)
            tier.entered(name)
    return hits, gone


@pytest.mark.parametrize("policy", POLICIES)
def test_it_decides_as_a_replay_of_the_same_accesses(policy):
    ids, _ = dense_ids(skewed(1500, 100, 3))
    report = run(pages("p", ids, blocks=184), one_tier(30), policy, 7)
    tier = LiveTier(policy, 30, 7)
    hits, _ = played(tier, ids.tolist())
    assert (np.array(hits) == report.state.hits.astype(bool)).all()
    if policy not in ("lru", "fifo"):  # whose replays keep no pages
        assert sorted(tier.names()) == np.flatnonzero(report.state.page["tier"] != NONE).tolist()


@pytest.mark.parametrize("policy", POLICIES)
def test_blocks_without_end_are_forgotten_and_the_books_balance(policy):
    tier = LiveTier(policy, 8)
    names = [("block", int(one)) for one in skewed(600, 5000, 1)]
    played(tier, names)
    assert len(tier) == 8 == len(set(tier.names()))
    state = tier._state
    check(state.ledger, np.array([(state.page["tier"] == 0).sum()]))


def test_lru_is_an_ordered_dict_whatever_is_forgotten():
    names = skewed(2000, 3000, 2).tolist()
    _, gone = played(LiveTier("lru", 20), names)
    held, left = OrderedDict(), []
    for name in names:
        if name not in held and len(held) == 20:
            left.append(held.popitem(last=False)[0])
        held[name] = None
        held.move_to_end(name)
    assert gone == left


@pytest.mark.parametrize("policy", POLICIES)
def test_spared_blocks_stay_and_the_others_leave(policy):
    tier = LiveTier(policy, 12)
    played(tier, list(range(12)))
    spared = {0, 1, 5, 11}
    left = tier.victims(8, spared.__contains__)
    assert sorted(left) == [one for one in range(12) if one not in spared]
    assert set(tier.names()) == spared and all(tier.asked(one) for one in spared)
    with pytest.raises(HierarchyError, match="3 blocks should leave and 1 can; spare fewer"):
        tier.victims(3, {0, 1, 5}.__contains__)
    assert sorted(tier.victims(3)) == [0, 1, 5] and len(tier) == 0


@pytest.mark.parametrize("policy", ["lru", "fifo", "arc", "s3fifo", "slru"])
def test_what_was_spared_is_still_the_next_to_leave(policy):
    tier, twin = LiveTier(policy, 10), LiveTier(policy, 10)
    for one in (tier, twin):
        played(one, list(range(10)))
    first = twin.victims(1)[0]
    tier.victims(1, {first}.__contains__)
    assert tier.victims(1) == [first]


def test_sieve_s_hand_passes_over_what_is_spared():
    tier = LiveTier("sieve", 4)
    played(tier, [1, 2, 3, 4])
    assert tier.victims(1, {1}.__contains__) == [2]
    assert tier.victims(3) == [3, 4, 1]


def test_a_renewed_block_is_the_newest_and_not_used():
    for policy in ("lru", "fifo", "lfu", "s3fifo", "arc"):
        tier = LiveTier(policy, 4)
        played(tier, [1, 2, 3, 4])
        tier.renewed(1)
        assert tier.victims(4) == [2, 3, 4, 1], policy


def test_a_block_that_is_removed_is_no_victim():
    tier = LiveTier("sieve", 4)
    played(tier, [1, 2, 3, 4])
    tier.removed(2)
    assert 2 not in tier and len(tier) == 3 and tier.victims(3) == [1, 3, 4]
    assert not tier.asked(2)
    tier.clear()
    assert len(tier) == 0 and 1 not in tier


def test_what_is_no_policy_or_capacity_is_refused():
    with pytest.raises(HierarchyError, match=r"unknown policy 'lruu'; did you mean lru\?"):
        LiveTier("lruu", 4)
    with pytest.raises(HierarchyError, match="capacity is 0; give a whole number"):
        LiveTier("lru", 0)

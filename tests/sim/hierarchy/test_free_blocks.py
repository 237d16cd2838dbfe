"""An engine's pool under a policy: a plain queue under LRU, a replay's decisions where nothing is held."""

from collections import OrderedDict

import numpy as np
import pytest

from kv_cache_rl.core.pool import check
from kv_cache_rl.sim.hierarchy import HierarchyError, one_tier
from kv_cache_rl.sim.hierarchy.engine import run
from kv_cache_rl.sim.hierarchy.free_blocks import FreeBlocks
from kv_cache_rl.sim.hierarchy.policies import POLICIES, parsed
from kv_cache_rl.sim.hierarchy.traces.numbering import dense_ids
from kv_cache_rl.sim.hierarchy.traces.trace import pages

SEES_THE_ACCESS = ("value_aware", "regret_aware", "ttl", "arc", "s3fifo")
"""Policies that a replay asks after it counted the access for which room is made, which an engine cannot."""


def skewed(count, names, seed):
    return (np.random.default_rng(seed).zipf(1.2, count) % names).tolist()


class Pool:
    """Requests for paths of blocks over a FreeBlocks."""

    def __init__(self, policy, blocks):
        self.order, self.blank = FreeBlocks(policy, blocks), list(range(blocks))
        self.content, self.held, self.gone = {}, {}, []

    def begin(self, path):
        """The blocks of a path, held: its leading ones that are there, then others; how many were there."""
        where = {name: block for block, name in self.content.items()}
        mine = []
        for name in path:
            if name not in where:
                break
            block = where[name]
            if not self.held.get(block):
                self.order.taken(block)
            mine.append(block)
        for block in mine:
            self.held[block] = self.held.get(block, 0) + 1
        found = len(mine)
        fresh = self.blank[: len(path) - found]
        del self.blank[: len(fresh)]
        left = self.order.victims(len(path) - found - len(fresh))
        self.gone += [self.content.pop(block) for block in left]
        mine += fresh + left
        for at in range(found, len(path)):
            assert not self.held.get(mine[at])
            self.held[mine[at]], self.content[mine[at]] = 1, path[at]
            self.order.stored(mine[at], path[at], mine[at - 1] if at else None)
        return mine, found

    def end(self, mine):
        self.order.used(mine[::-1])
        for block in mine:
            self.held[block] -= 1
        self.order.freed([block for block in reversed(mine) if not self.held[block]])

    def check(self):
        free = [block for block in self.content if not self.held.get(block)]
        assert sorted(self.order.free()) == sorted(free)
        assert len(self.order) == len(free)
        state = self.order._state
        check(state.ledger, np.array([(state.page["tier"] == 0).sum()]))


@pytest.mark.parametrize("policy", [name for name in POLICIES if name not in SEES_THE_ACCESS])
def test_single_blocks_leave_as_in_a_replay_of_the_same_accesses(policy):
    ids, _ = dense_ids(np.array(skewed(1200, 100, 3)))
    report = run(pages("p", ids, blocks=184), one_tier(30), policy)
    pool, hits = Pool(policy, 30), []
    for one in ids.tolist():
        mine, found = pool.begin([one])
        pool.end(mine)
        hits.append(found)
    assert hits == report.state.hits.tolist()


def paths(count, seed):
    """Paths in a tree: a stem, a branch of it, and a leaf of its own."""
    rng = np.random.default_rng(seed)
    for at in range(count):
        stem, branch = int(rng.zipf(1.5) % 4), int(rng.zipf(1.3) % 30)
        path = [("stem", stem, depth) for depth in range(2)]
        path += [("branch", stem, branch, depth) for depth in range(int(branch % 3))]
        yield [*path, ("leaf", at)]


def beside_each_other(pool, count, seed, at_once=3):
    """Runs paths, some at the same time; how many blocks each found."""
    running, found = [], []
    for path in paths(count, seed):
        if len(running) == at_once:
            pool.end(running.pop(seed % 2))
        mine, hits = pool.begin(path)
        running.append(mine)
        found.append(hits)
        pool.check()
    for mine in running:
        pool.end(mine)
    pool.check()
    return found


@pytest.mark.parametrize("policy", POLICIES)
def test_what_requests_hold_stays_and_the_books_balance(policy):
    pool = Pool(policy, 24)
    found = beside_each_other(pool, 250, 5)
    assert sum(found) > 150
    held = set(pool.content.values())
    if policy != "fifo":  # which lets a block leave before its children
        for path in paths(250, 5):
            there = [name in held for name in path]
            assert there == sorted(there, reverse=True), "a block left before its children"


@pytest.mark.parametrize("at_once", [1, 3])
def test_lru_is_the_queue_of_an_engine_to_the_block(at_once):
    class Plain:
        """vLLM's order: what is let go enters at the end, the last block first; what is found goes out."""

        def __init__(self):
            self.queue, self.at = OrderedDict(), {}

        stored = lambda self, block, name, before: self.at.__setitem__(block, name)  # noqa: E731
        used = lambda self, blocks: None  # noqa: E731
        freed = lambda self, blocks: self.queue.update(dict.fromkeys(blocks))  # noqa: E731
        taken = lambda self, block: self.queue.pop(block)  # noqa: E731
        victims = lambda self, count: [self.queue.popitem(last=False)[0] for _ in range(count)]  # noqa: E731

    ours, plain = Pool("lru", 24), Pool("lru", 24)
    plain.order, plain.check = Plain(), lambda: None
    assert beside_each_other(ours, 250, 2, at_once) == beside_each_other(plain, 250, 2, at_once)
    assert ours.gone == plain.gone


def test_blocks_without_end_are_forgotten_and_copies_leave_by_themselves():
    order = FreeBlocks("lfu", 4)
    for at in range(300):
        if at >= 4:
            assert len(order.victims(1)) == 1
        block = at if at < 4 else next(block for block in range(4) if not order.holds(block))
        order.stored(block, "twice" if at % 4 < 2 else ("other", at), None)
        order.used([block])
        order.freed([block])
        assert len(order) == min(at + 1, 4)
    assert sorted(order.victims(4)) == [0, 1, 2, 3]
    assert not any(order.holds(block) for block in range(4))


def test_content_that_is_lost_or_replaced_leaves_the_order():
    order = FreeBlocks("s3fifo", 3)
    order.stored(0, "a", None)
    order.stored(0, "a", None)
    order.stored(0, "b", None)
    order.used([0])
    order.stored(1, "c", 0)
    order.used([1, 0])
    order.dropped(1)
    order.dropped(2)
    order.freed([0])
    assert order.victims(1) == [0]
    order.clear()
    assert len(order) == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_a_block_with_a_held_child_leaves_where_nothing_else_is_free(policy):
    order = FreeBlocks(policy, 2)
    order.stored(0, "parent", None)
    order.stored(1, "child", 0)
    order.used([1, 0])
    order.freed([0])
    assert order.victims(1) == [0], "as sliding windows let the first blocks go"
    order.used([1])
    order.freed([1])
    assert order.victims(1) == [1]


@pytest.mark.parametrize(
    ("blocks", "asked", "said"), [(2, 1, "1 blocks should leave and 0 are free"), (0, 0, "blocks is 0")]
)
def test_room_that_is_not_there_is_refused(blocks, asked, said):
    with pytest.raises(HierarchyError, match=said):
        FreeBlocks("lru", blocks).victims(asked)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lruu", "unknown policy 'lruu'; did you mean lru"),
        ("", "unknown policy ''"),
        ("lru:window=3", "policy lru has no parameter 'window'; it has none"),
        ("random:weight=3", "policy random has no parameter 'weight'; it has seed"),
        ("regret_aware:regret_decay=2", "regret_decay='2' is not possible; give a number from 0.0 to 1.0"),
        ("regret_aware:regret_decay=nan", "regret_decay='nan' is not possible"),
        ("windowed_recency:window=1.5", "window='1.5' is not possible; give a whole number from 1 to"),
        ("windowed_recency:window", "window='' is not possible"),
        ("random:seed=1:seed=2", "gives seed twice"),
    ],
)
def test_a_policy_that_is_none_is_refused_by_name(text, said):
    with pytest.raises(HierarchyError, match=said):
        parsed(text)


def test_parameters_reach_the_policy():
    assert parsed("regret_aware:regret_weight=2") == ("regret_aware", {"regret": (2.0, 0.98, 0)})
    assert parsed("gdsf") == ("gdsf", {})
    one, two = (beside_each_other(Pool(f"random:seed={seed}", 24), 250, 5) for seed in (1, 2))
    assert one != two
    wide, narrow = (
        beside_each_other(Pool(f"windowed_recency:window={window}", 24), 250, 5) for window in (200, 2)
    )
    assert wide != narrow

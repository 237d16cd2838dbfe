"""Curves by capacity: what replays at each capacity give, in blocks and in bytes, on any number of cores."""

import json

import numpy as np
import pytest

from kv_cache_rl.experiments.hierarchy.capacity import ALIKE, capacities_between, capacity_curves
from kv_cache_rl.experiments.hierarchy.settings import in_blocks
from kv_cache_rl.experiments.hierarchy.sources import from_file, from_workload
from kv_cache_rl.sim.hierarchy.curves.bound import PREFIX_CLOSED, min_hits
from kv_cache_rl.sim.hierarchy.curves.runs import lru
from kv_cache_rl.sim.hierarchy.engine import run
from kv_cache_rl.sim.hierarchy.policies import POLICIES
from kv_cache_rl.sim.hierarchy.spec import HierarchyError, one_tier

RAG = from_workload("rag_burst", length=300)
BLOCK = 131_072 * 64
"""Bytes of 64 tokens in the cache of llama-3.1-8b."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A prefix-tree trace of 20 sessions in turns, in a file."""
    lines = [{"format": "kv-cache-rl trace", "version": 1, "kind": "requests", "block_tokens": 64}]
    for turn in range(120):
        session = turn * 7 % 20
        runs = [[0, 2], [1000 * (session + 1), 2 + turn % 9]]
        tokens = 64 * (runs[0][1] + runs[1][1])
        lines.append({"time_s": turn, "sequence": session, "input_tokens": tokens, "runs": runs})
    path = tmp_path_factory.mktemp("curve") / "tree.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return from_file(path)


def test_every_rate_is_that_of_a_replay_at_its_capacity():
    found = capacity_curves(RAG, [*POLICIES], ["5", "60"], 4)
    trace = in_blocks(RAG.trace())
    assert found.capacities == (5, 11, 26, 60)
    for policy in POLICIES:
        rates = [run(trace, one_tier(capacity), policy).metrics["hit_rate"] for capacity in found.capacities]
        assert found.rates[policy] == rates, policy
        assert all(rate <= bound for rate, bound in zip(rates, found.bound, strict=True))
    assert found.bound == [min_hits(trace, capacity) / trace.accesses for capacity in found.capacities]


def test_more_workers_give_the_same_curves(tree):
    one, three = (capacity_curves(tree, ["lru", "s3fifo", "random"], None, 5, workers=n) for n in (1, 3))
    assert (one.capacities, one.rates, one.bound) == (three.capacities, three.rates, three.bound)


def test_capacities_in_bytes_are_those_that_hold_whole_blocks(tree):
    found = capacity_curves(tree, ["lru", "lru_ended"], ["1GB", "150%"], 3, model="llama-3.1-8b")
    assert found.block_bytes == BLOCK and found.bound_name == PREFIX_CLOSED
    assert found.capacities[0] == 10**9 // BLOCK
    assert found.capacities[-1] == -(-3 * found.trace.blocks // 2)
    ended = [lru(found.trace, capacity, None, True) for capacity in found.capacities]
    assert found.rates["lru_ended"] == [hits / found.trace.accesses for hits in ended]


def test_pages_of_unequal_size_have_their_mean_and_are_counted_alike():
    found = capacity_curves(RAG, ["lru"], None, 2)
    assert found.block_bytes == pytest.approx(np.mean(RAG.trace().page_bytes))
    assert found.bound_name != ALIKE and found.capacities[-1] == found.trace.blocks


def test_points_are_spread_evenly_in_the_logarithm_and_none_is_double(tree):
    trace = tree.trace()
    assert capacities_between(trace, None, ["1", "1000"], 4) == [1, 10, 100, 1000]
    assert capacities_between(trace, None, ["1", "4"], 50) == [1, 2, 3, 4]
    assert capacities_between(trace, None, ["10%", "10%"], 9) == [-(-trace.blocks // 10)]


@pytest.mark.parametrize(
    ("policies", "wanted", "model", "words"),
    [
        (["lruu"], None, None, "unknown policy 'lruu'"),
        (["lru"], ["1GB", "2GB"], None, "1GB: .* does not know the bytes of its blocks; name a model"),
        (["lru"], ["1KB", "2GB"], "llama-3.1-8b", "1KB is less than one block of 8 MiB; give more"),
        (["lru"], ["50%", "1"], None, "give the smaller one first"),
        (["lru"], ["0", "1"], None, "the capacity is 0 blocks; give at least 1"),
        (["lru"], ["some", "1"], None, "'some' is no capacity"),
        (["lru"], None, "llama", "unknown model 'llama'"),
    ],
)
def test_what_cannot_be_drawn_says_what_to_change(tree, policies, wanted, model, words):
    with pytest.raises(HierarchyError, match=words):
        capacity_curves(tree, policies, wanted, 4, model)


def test_sessions_that_end_are_needed_for_a_policy_that_knows_their_ends():
    with pytest.raises(HierarchyError, match="lru_ended needs a trace of requests"):
        capacity_curves(RAG, ["lru_ended"])

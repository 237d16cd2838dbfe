"""The lab's policies inside vLLM's block pool and scheduler."""

import json
import random
from types import SimpleNamespace

import pytest
from kv_cache_vllm import engine as vllm_engine
from kv_cache_vllm.answers import answering
from kv_cache_vllm.model import write_tiny
from kv_cache_vllm.scheduler import CHOSEN, PolicyQueue, policy
from recordings import GOLDEN
from vllm.v1.core.block_pool import BlockPool

from kv_cache_rl.experiments.engine.plan import EngineError
from kv_cache_rl.sim.hierarchy import HierarchyError

TOKENS = 16


def pool_of(blocks, name=None):
    """A pool with vLLM's own queue, or one of the lab's policies."""
    pool = BlockPool(blocks, enable_caching=True, hash_block_size=TOKENS)
    if name is not None:
        PolicyQueue(pool, name)
    return pool


class Requests:
    """Requests that take, share and release the blocks of a pool, all of them drawn from one seed."""

    def __init__(self, pool, seed):
        self.pool, self.rng, self.running, self.log = pool, random.Random(seed), [], []

    def step(self):
        if self.running and (len(self.running) == 4 or self.rng.random() < 0.4):
            blocks = self.running.pop(self.rng.randrange(len(self.running)))
            self.pool.free_blocks(reversed(blocks))
            return
        stem, length = self.rng.randrange(6), self.rng.randrange(2, 12)
        own = self.rng.randrange(40)
        hashes = [f"{stem}/{at if at < 5 else (own, at)}".encode() for at in range(length)]
        mine = []
        for one in hashes:
            found = self.pool.get_cached_block(one, [0])
            if found is None:
                break
            mine += found
        if length + 1 - len(mine) > self.pool.get_num_free_blocks() - len(mine):
            return
        self.pool.touch(mine)
        hits = len(mine)
        mine += self.pool.get_new_blocks(length + 1 - hits)
        request = SimpleNamespace(block_hashes=hashes)
        self.pool.cache_full_blocks(request, mine, hits, length, TOKENS, 0)
        self.running.append(mine)
        self.log.append([block.block_id for block in mine])


@pytest.mark.parametrize("seed", range(5))
def test_lru_takes_the_very_blocks_that_vllm_takes(seed):
    own, ours = Requests(pool_of(60), seed), Requests(pool_of(60, "lru"), seed)
    for _ in range(400):
        own.step()
        ours.step()
        assert ours.log == own.log
        assert ours.pool.get_num_free_blocks() == own.pool.get_num_free_blocks()
    assert len(own.log) > 100


@pytest.mark.parametrize("name", ["fifo", "lfu", "s3fifo", "sieve", "gdsf", "ttl", "arc"])
def test_under_any_policy_no_block_is_given_twice_and_none_is_lost(name):
    requests = Requests(pool_of(60, name), 1)
    for _ in range(300):
        requests.step()
        held = {block.block_id for blocks in requests.running for block in blocks}
        free = [block.block_id for block in requests.pool.free_block_queue.get_all_free_blocks()]
        assert len(free) == len(set(free)) == requests.pool.get_num_free_blocks()
        assert not held & set(free)
        assert held | set(free) == set(range(1, 60))
    for blocks in requests.running:
        requests.pool.free_blocks(reversed(blocks))
    assert requests.pool.reset_prefix_cache()
    assert requests.pool.get_num_free_blocks() == 59
    assert len(requests.pool.get_new_blocks(59)) == 59


def test_a_block_whose_content_was_taken_from_it_is_reused():
    pool = pool_of(4, "s3fifo")
    blocks = pool.get_new_blocks(3)
    pool.cache_full_blocks(SimpleNamespace(block_hashes=[b"a", b"b", b"c"]), blocks, 0, 3, TOKENS, 0)
    pool.evict_blocks({blocks[1].block_id})
    pool.free_blocks(reversed(blocks))
    pool.evict_blocks({blocks[0].block_id})
    assert {block.block_id for block in pool.get_new_blocks(3)} == {1, 2, 3}
    assert pool.get_num_free_blocks() == 0


def test_an_unknown_policy_is_refused_by_name_with_the_list(tmp_path):
    with pytest.raises(HierarchyError, match="unknown policy 's4fifo'; did you mean s3fifo"):
        pool_of(9, "s4fifo")
    settings = vllm_engine.Settings(write_tiny(tmp_path, 256), True, 9, 32, 1, 2048, 256, CHOSEN)
    with policy("s4fifo"), pytest.raises(EngineError, match="unknown policy 's4fifo'; did you mean s3fifo"):
        vllm_engine.started(settings)


def test_policies_decide_in_a_running_engine_as_the_lab_predicted(kv, tmp_path):
    golden = json.loads((GOLDEN / "policies.json").read_text())
    words = golden["command"].split()
    said = kv(*words[1 : words.index("--out")], "--out", "found.json", "--check")
    assert said.code == 0, said.err
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["rows"] == golden["rows"]


@pytest.mark.parametrize("name", ["lru", "s3fifo"])
def test_an_engine_that_plans_ahead_has_the_policy_too(tmp_path, name):
    ahead = {"scheduler_cls": "kv_cache_vllm.scheduler.AsyncPolicyScheduler", "async_scheduling": True}
    settings = vllm_engine.Settings(write_tiny(tmp_path, 256), True, 12, 32, 2, 2048, 256, ahead)
    with policy(name):
        engine = vllm_engine.started(settings)
    pool = vllm_engine.scheduler_of(engine).kv_cache_manager.block_pool
    assert isinstance(pool.free_block_queue, PolicyQueue)
    try:
        for at in range(12):
            engine.add_request(str(at), {"prompt_token_ids": [3 + at % 2] * 100}, answering([7] * 40))
        answers = {}
        while engine.has_unfinished_requests():
            answers |= {one.request_id: one for one in engine.step() if one.finished}
    finally:
        engine.engine_core.shutdown()
    assert sorted(answers, key=int) == [str(at) for at in range(12)]
    assert sum(one.num_cached_tokens for one in answers.values()) > 0
    assert pool.get_num_free_blocks() == 11

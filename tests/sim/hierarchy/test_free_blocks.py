"""An engine's pool under a policy: LRU is vLLM's own queue, others decide as a replay does where nothing is held."""

from collections import OrderedDict

import numpy as np
import pytest

from kv_cache_rl.core.pool import check
from kv_cache_rl.sim.hierarchy import HierarchyError, one_tier
from kv_cache_rl.sim.hierarchy.engine import run
from kv_cache_rl.sim.hierarchy.free_blocks import FreeBlocks
from kv_cache_rl.sim.hierarchy.policies import POLICIES, parsed
from kv_cache_rl.sim.hierarchy.state import NONE
from kv_cache_rl.sim.hierarchy.traces.numbering import dense_ids
from kv_cache_rl.sim.hierarchy.traces.trace import pages


def skewed(count, names, seed):
    return (np.random.default_rng(seed).zipf(1.2, count) % names).astype(np.int64)


class Pool:
    """Requests of some blocks over a FreeBlocks: blocks by number, the content of each."""

    def __init__(self, policy, blocks):
        self.order, self.blank = FreeBlocks(policy, blocks), list(range(1, blocks + 1))
        self.content, self.gone = {}, []

    def where(self, name):
        return next((block for block, content in self.content.items() if content == name), None)

    def take(self, count):
        taken = self.blank[:count]
        del self.blank[:count]
        more = self.order.victims(count - len(taken))
        self.gone += [self.content.pop(block) for block in more]
        return taken + more

    def begin(self, path):
        """Holds the blocks of a path; those of its leading ones that are there, and new ones."""
        mine = []
        for name in path:
            block = self.where(name)
            if block is None:
                break
            self.order.taken(block)
            mine.append(block)
        found = len(mine)
        mine += self.take(len(path) - found)
        for at in range(found, len(path)):
            self.content[mine[at]] = path[at]
            self.order.stored(mine[at], path[at], mine[at - 1] if at else None)
        return mine

    def end(self, mine):
        self.order.used(mine[::-1])
        self.order.freed(mine[::-1])


@pytest.mark.parametrize("policy", POLICIES)
def test_single_blocks_leave_as_in_a_replay_of_the_same_accesses(policy):
    ids, _ = dense_ids(skewed(1200, 100, 3))
    report = run(pages("p", ids, blocks=184), one_tier(30), policy)
    pool, hits = Pool(policy, 30), []
    for one in ids.tolist():
        hits.append(pool.where(one) is not None)
        if not hits[-1] and policy in ("arc", "s3fifo"):
            break  # a replay asks their ghosts before room is made, an engine after
        pool.end(pool.begin([one]))
    want = report.state.hits.astype(bool)
    if policy not in ("arc", "s3fifo", "tinylfu", "ttl", "windowed_recency", "regret_aware", "gdsf"):
        assert (np.array(hits) == want).all()

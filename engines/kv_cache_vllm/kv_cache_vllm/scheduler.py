"""The lab's policies inside vLLM's scheduler: which free block of the KV cache is overwritten next.

    KV_CACHE_RL_POLICY=s3fifo vllm serve MODEL --scheduler-cls kv_cache_vllm.scheduler.AsyncPolicyScheduler

KV_CACHE_RL_POLICY is any policy of the lab, with parameters after colons (`regret_aware:regret_weight=2`);
`lru`, the default, is vLLM's own order. Nothing else of the scheduler changes. The pool says what it does by
four of its methods, and its queue of free blocks asks `FreeBlocks`, as a prediction of the lab does.

    cache_full_blocks   a block has content   -> stored
    free_blocks         a request lets go     -> used, then append_n: freed, prepend_n: dropped
    touch               a request finds one   -> remove: taken
    get_new_blocks      room                  -> popleft_n: blocks without content, then victims

A block that is cached in part only (Mamba) is not stored; it leaves before those of the policy.

Source: vLLM 0.32, v1/core: block_pool.py (BlockPool), kv_cache_utils.py (FreeKVCacheBlockQueue).
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vllm.v1.core.block_pool import BlockPool
from vllm.v1.core.kv_cache_utils import KVCacheBlock
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from kv_cache_rl.sim.hierarchy.free_blocks import FreeBlocks

VARIABLE = "KV_CACHE_RL_POLICY"
DEFAULT = "lru"
CHOSEN = {"scheduler_cls": "kv_cache_vllm.scheduler.PolicyScheduler"}
"""Arguments of an engine that has this scheduler."""


@contextmanager
def policy(name: str) -> Generator[None]:
    """Engines that are started in this block have this policy."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


class PolicyScheduler(Scheduler):
    """vLLM's scheduler, whose cached blocks leave in the order of a policy of the lab."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        """As vLLM's own.

        Raises:
            HierarchyError: the environment names a policy that the lab does not have.
        """
        super().__init__(*arguments, **more)
        take_over(self)


class AsyncPolicyScheduler(AsyncScheduler):
    """The same for engines that plan a step while the one before is computed, which is vLLM's default."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        """As vLLM's own.

        Raises:
            HierarchyError: the environment names a policy that the lab does not have.
        """
        super().__init__(*arguments, **more)
        take_over(self)


def take_over(scheduler: Scheduler) -> None:
    """Has the policy that the environment names decide for a scheduler whose blocks are all free.

    Raises:
        HierarchyError: the lab does not have it.
    """
    PolicyQueue(scheduler.kv_cache_manager.block_pool, os.environ.get(VARIABLE) or DEFAULT)


class PolicyQueue:
    """A pool's queue of free blocks: those without content first, then those that a policy names."""

    def __init__(self, pool: BlockPool, policy: str) -> None:
        """Takes the place of the queue of a pool in which every block is still free.

        Raises:
            HierarchyError: an unknown policy or parameter.
        """
        self._blocks = pool.blocks
        self._order = FreeBlocks(policy, pool.num_gpu_blocks - 1, pool.hash_block_size)
        self._blank = deque(pool.free_block_queue.get_all_free_blocks())
        self._listen(pool)
        pool.free_block_queue = self  # pyrefly: ignore[bad-assignment]

    def _listen(self, pool: BlockPool) -> None:
        """The methods of the pool that move blocks say so here."""
        store, clear = pool.cache_full_blocks, pool.reset_prefix_cache

        def storing(
            request: Any,
            blocks: list[KVCacheBlock],
            num_cached_blocks: int,
            num_full_blocks: int,
            *more: Any,
            **named: Any,
        ) -> None:
            store(request, blocks, num_cached_blocks, num_full_blocks, *more, **named)
            for at in range(num_cached_blocks, num_full_blocks):
                block = blocks[at]
                if block.block_hash is not None:
                    before = blocks[at - 1].block_id if at else None
                    self._order.stored(block.block_id, block.block_hash, before)

        def releasing(let_go: Callable[..., None]) -> Callable[..., None]:
            def released(blocks: Iterable[KVCacheBlock], *more: Any, **named: Any) -> None:
                ordered = list(blocks)
                self._order.used([block.block_id for block in ordered if block.pool in (None, pool)])
                let_go(ordered, *more, **named)

            return released

        def clearing() -> bool:
            done = clear()
            if done:
                self._order.clear()
                self._blank = deque(block for block in self._blocks if not block.is_null)
            return done

        pool.cache_full_blocks, pool.reset_prefix_cache = storing, clearing
        pool.free_blocks, pool.unpin_blocks = releasing(pool.free_blocks), releasing(pool.unpin_blocks)

    @property
    def num_free_blocks(self) -> int:
        """Blocks that no request holds."""
        return len(self._blank) + len(self._order)

    def popleft(self) -> KVCacheBlock:
        """The free block that is overwritten next. Raises HierarchyError where there is none."""
        return self.popleft_n(1)[0]

    def popleft_n(self, n: int) -> list[KVCacheBlock]:
        """So many free blocks. Raises HierarchyError where there are fewer."""
        taken = [self._blank.popleft() for _ in range(min(n, len(self._blank)))]
        if len(taken) < n:
            taken += [self._blocks[block] for block in self._order.victims(n - len(taken))]
        return taken

    def remove(self, block: KVCacheBlock) -> None:
        """A request holds a free block."""
        if self._order.holds(block.block_id):
            self._order.taken(block.block_id)
        else:
            self._blank.remove(block)

    def append(self, block: KVCacheBlock) -> None:
        """A block is free."""
        self.append_n([block])

    def append_n(self, blocks: Sequence[KVCacheBlock]) -> None:
        """Blocks are free, those with content to leave when the policy names them."""
        self._order.freed([block.block_id for block in blocks if self._order.holds(block.block_id)])
        self._blank.extend(block for block in blocks if not self._order.holds(block.block_id))

    def prepend_n(self, blocks: Sequence[KVCacheBlock]) -> None:
        """Blocks without content are free, the first to be overwritten first."""
        for block in blocks:
            self._order.dropped(block.block_id)
        self._blank.extendleft(reversed(blocks))

    def get_all_free_blocks(self) -> list[KVCacheBlock]:
        """The free blocks, those with content in no order."""
        return [*self._blank, *(self._blocks[block] for block in self._order.free())]

    def iter_blocks_after(self, cursor: KVCacheBlock | None) -> Iterator[KVCacheBlock]:
        """The free blocks, all of them: where a cursor stands an order that changes does not say."""
        del cursor
        yield from self.get_all_free_blocks()

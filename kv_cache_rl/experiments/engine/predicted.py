"""What a policy of the lab finds in an engine's pool, told from the requests alone, one at a time.

    find     leading blocks of the prompt that the pool has
    take     these, and blocks for the rest: those without content first, then the policy's victims
    release  when the request is over: all are used and free, the last first

A replay (`hierarchy replay`) makes room when a request is over, and its own blocks may leave. An engine makes
room before it computes, and what runs is held. Under LRU that is the same; under other policies it is not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from kv_cache_rl.experiments.engine.folder import Config, Recorded
from kv_cache_rl.experiments.engine.plan import Asked
from kv_cache_rl.experiments.engine.replayed import NULL_BLOCKS, in_trace
from kv_cache_rl.sim.hierarchy.dynamics import new_state
from kv_cache_rl.sim.hierarchy.engine import advance_trace
from kv_cache_rl.sim.hierarchy.free_blocks import FreeBlocks
from kv_cache_rl.sim.hierarchy.policies import parsed
from kv_cache_rl.sim.hierarchy.spec import one_tier
from kv_cache_rl.sim.hierarchy.traces.trace import expand


def predicted(requests: Iterable[Asked], blocks: int, block_tokens: int, policy: str) -> list[int]:
    """Blocks that each request finds in a pool of so many blocks.

    Raises:
        HierarchyError: an unknown policy or parameter.
    """
    pool = _Pool(blocks, block_tokens, policy)
    return [pool.serve(one) for one in requests]


def replayed(requests: Sequence[Recorded], config: Config, policy: str) -> list[int]:
    """The same in a replay of the lab.

    Raises:
        HierarchyError: an unknown policy or parameter.
    """
    name, tuning = parsed(policy)
    trace = in_trace(requests, config)
    state = new_state(trace, one_tier(config.blocks - NULL_BLOCKS), name, **tuning)
    advance_trace(state, trace, *expand(trace), 0, trace.requests)
    return state.hits.tolist()


class _Pool:
    """Blocks by number, and which content each has."""

    def __init__(self, blocks: int, block_tokens: int, policy: str) -> None:
        self._size = block_tokens
        self._order = FreeBlocks(policy, blocks - NULL_BLOCKS, block_tokens)
        self._blank = deque(range(blocks - NULL_BLOCKS))
        self._content: dict[int, int] = {}
        self._copies: dict[int, dict[int, None]] = {}

    def serve(self, one: Asked) -> int:
        """Answers a request; how many of its leading blocks were there."""
        mine = self._find(one.blocks[: (one.prompt - 1) // self._size])
        found, computed = len(mine), one.prompt + one.generated - 1
        for block in mine:
            self._order.taken(block)
        mine += self._take(-(-computed // self._size) - found)
        full = computed // self._size
        for at in range(found, full):
            self._store(mine[at], one.blocks[at], mine[at - 1] if at else None)
        self._order.used(mine[full - 1 :: -1] if full else [])
        self._order.freed(mine[full - 1 :: -1] if full else [])
        self._blank.extendleft(mine[full:])
        return found

    def _find(self, path: Sequence[int]) -> list[int]:
        found = []
        for content in path:
            if not self._copies.get(content):
                break
            found.append(next(iter(self._copies[content])))
        return found

    def _take(self, count: int) -> list[int]:
        taken = [self._blank.popleft() for _ in range(min(count, len(self._blank)))]
        more = self._order.victims(count - len(taken))
        for block in more:
            del self._copies[self._content.pop(block)][block]
        return taken + more

    def _store(self, block: int, content: int, before: int | None) -> None:
        self._content[block] = content
        self._copies.setdefault(content, {})[block] = None
        self._order.stored(block, content, before)

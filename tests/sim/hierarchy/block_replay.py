"""The replay conventions block by block, as plainly as they can be written: what the run-length replays are
held against.
"""

import heapq
import itertools
from collections import OrderedDict

import numpy as np

from kv_cache_rl.sim.hierarchy.traces.numbering import runs_of
from kv_cache_rl.sim.hierarchy.traces.trace import Trace, expand, last_of


def paths_of(trace):
    """The requests as lists of blocks."""
    first, block = expand(trace)
    return [block[a:b].tolist() for a, b in itertools.pairwise(first.tolist())]


def trace_of(paths, sequence=None):
    """A chained trace of these paths (dense ids, a block has one parent)."""
    count = len(paths)
    first_run, start, length = runs_of(
        np.array([b for p in paths for b in p], np.int64), np.array([len(p) for p in paths])
    )
    sequence = np.zeros(count, np.int64) if sequence is None else np.array(sequence, np.int64)
    zeros, blocks = np.zeros(count, np.int64), max(max(p, default=-1) for p in paths) + 1
    clock = np.arange(count, dtype=float)
    return Trace(
        "paths",
        True,
        64,
        clock,
        sequence,
        first_run,
        start,
        length,
        blocks,
        0,
        zeros,
        zeros,
        last_of(sequence),
    )


def leading(path, resident):
    """How many of a path's first blocks are resident."""
    return next((at for at, block in enumerate(path) if block not in resident), len(path))


def ordered_dict_lru(paths, capacity):
    """Hits of LRU: ten lines that need no explanation."""
    cache, hits = OrderedDict(), 0
    for path in paths:
        hits += leading(path, cache)
        for block in reversed(path):
            cache[block] = None
            cache.move_to_end(block)
        while len(cache) > capacity:
            cache.popitem(last=False)
    return hits


def heap_replay(paths, capacity, policy):
    """Hits of a policy of KEYS: the block with the lowest key leaves, keys change only when a block is
    touched.
    """
    clock, heap, key_of, touches, hits = itertools.count(), [], {}, {}, 0
    upcoming = next_users(paths) if policy == "min" else None
    for request, path in enumerate(paths):
        hits += leading(path, key_of)
        for depth in range(len(path) - 1, -1, -1):
            block, now = path[depth], next(clock)
            touches[block] = touches[block] + 1 if block in key_of else 1
            if policy == "min":
                later = upcoming[request][depth]
                key = None if later is None else (-later, -depth)
            elif policy == "fifo":
                key = key_of.get(block, (now,))
            else:
                key = (touches[block], now) if policy == "lfu" else (now,)
            if key is None:
                key_of.pop(block, None)
            elif key_of.get(block) != key:
                key_of[block] = key
                heapq.heappush(heap, (key, block))
        while len(key_of) > capacity:
            key, block = heapq.heappop(heap)
            if key_of.get(block) == key:
                del key_of[block]
    return hits


def next_users(paths):
    """For every block of every path, the next request that uses it; None: no request."""
    seen, users = {}, []
    for request in range(len(paths) - 1, -1, -1):
        users.append([seen.get(block) for block in paths[request]])
        seen.update(dict.fromkeys(paths[request], request))
    return users[::-1]


def best_of_all(paths, capacity):
    """Hits of the best possible choices: after a request every prefix-closed set that fits may be kept."""
    worth = {frozenset(): 0}  # kept set → most hits so far
    for path in paths:
        after = {}
        for kept, hits in worth.items():
            total = hits + leading(path, kept)
            for choice in closed_subsets(kept | set(path), paths, capacity):
                after[choice] = max(after.get(choice, -1), total)
        worth = after
    return max(worth.values())


def closed_subsets(blocks, paths, capacity):
    """The sets of at most `capacity` of the blocks that hold every block's parent."""
    parent = {block: path[at - 1] if at else None for path in paths for at, block in enumerate(path)}
    for size in range(min(capacity, len(blocks)) + 1):
        for some in itertools.combinations(sorted(blocks), size):
            kept = frozenset(some)
            if all(parent[block] is None or parent[block] in kept for block in kept):
                yield kept

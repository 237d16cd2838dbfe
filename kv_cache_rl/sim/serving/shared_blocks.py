"""Blocks that requests share by prefix: which hold what, how many requests hold each, which leaves next.

    free    |= blank =|= blank =|= content, longest unused =| ... |= content, latest used =|
             ^ take: the first leaves and loses its content              release: behind all ^
             ^ release: a block without content

A request holds a chain of blocks, its `table`. A block that is full gets the request's `path` at that place
as content, and any request whose path goes through this content finds it. Two requests that compute the same
at once hold two copies, of which the older one is found. A request lets its chain go from the end, so that
the end leaves first.

The world's own rows hold counts alone (`actions.free_blocks`): there every block has one holder.
Source: vLLM 0.32, v1/core/block_pool.py and single_type_kv_cache_manager.py.
"""

from typing import NamedTuple

import numpy as np

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.compiled import give, take
from kv_cache_rl.sim.serving.columns import GPU_POOL, LIST
from kv_cache_rl.sim.serving.lists import link, unlink
from kv_cache_rl.sim.views import record

NONE = -1
"""No block, no content."""

BLOCK = record(
    "content",  # what it holds, NONE: nothing that can be found
    "holders",  # requests that hold it
    "before",  # neighbour among the free blocks
    "after",  # neighbour among the free blocks
    "younger",  # the next younger block of the same content
)


class Blocks(NamedTuple):
    """The blocks of a pool and the chains of requests, places of which lie behind each other."""

    block: np.ndarray  # BLOCK [N]
    free: np.ndarray  # LIST [1]: blocks without holders, next to leave first
    oldest: np.ndarray  # int64 [contents]: the oldest block of each content
    begins: np.ndarray  # int64 [R + 1]: the first place of each request's chain
    path: np.ndarray  # int64 [places]: content of each block once it is full
    table: np.ndarray  # int64 [places]: the block that a request holds there
    stored: np.ndarray  # int64 [R]: leading blocks of each chain that have their content


def blocks_of(paths: list[np.ndarray], blocks: int) -> Blocks:
    """An empty pool of so many blocks, and requests with these paths."""
    begins = np.concatenate([[0], np.cumsum([len(path) for path in paths])]).astype(np.int64)
    path = np.concatenate([*paths, np.zeros(0, np.int64)]).astype(np.int64)
    block, free = np.zeros(blocks, BLOCK), np.zeros(1, LIST)
    block["content"], block["younger"] = NONE, NONE
    block["before"] = np.arange(blocks) - 1
    block["after"] = np.append(np.arange(1, blocks), NONE)
    free["first"], free["last"], free["count"] = 0, blocks - 1, blocks
    oldest = np.full(path.max(initial=NONE) + 1, NONE, np.int64)
    return Blocks(block, free, oldest, begins, path, np.full(len(path), NONE), np.zeros(len(paths), np.int64))


@uncounted
def hits(b, row, most):
    """Leading blocks of a request that are there, at most so many."""
    first, n = b.begins[row], 0
    while n < most and b.path[first + n] >= 0 and b.oldest[b.path[first + n]] >= 0:
        n += 1
    return n


@uncounted
def free_among(b, row, found):
    """How many of the first `found` blocks of a request no request holds."""
    n = 0
    for place in range(b.begins[row], b.begins[row] + found):
        n += b.block[b.oldest[b.path[place]]].holders == 0
    return n


@uncounted
def hold(c, b, row, found):
    """A request without blocks holds the first `found` of its path, which are there."""
    first = b.begins[row]
    for place in range(first, first + found):
        block = b.oldest[b.path[place]]
        if b.block[block].holders == 0:
            unlink(b.block, b.free[0], block)
            take(c.book.pools, GPU_POOL, 1)
        b.block[block].holders += 1
        b.table[place] = block
    c.rows[row].blocks, b.stored[row] = found, found


@uncounted
def grow(c, b, row, count):
    """A request holds so many more blocks: the free ones that leave next."""
    r = c.rows[row]
    for _ in range(count):
        block = b.free[0].first
        unlink(b.block, b.free[0], block)
        forget(b, block)
        b.block[block].holders = 1
        b.table[b.begins[row] + r.blocks] = block
        r.blocks += 1
    take(c.book.pools, GPU_POOL, count)


@uncounted
def forget(b, block):
    """A block loses its content."""
    content, next_one = b.block[block].content, b.block[block].younger
    if content < 0:
        return
    before = b.oldest[content]
    if before == block:
        b.oldest[content] = next_one
    else:
        while b.block[before].younger != block:
            before = b.block[before].younger
        b.block[before].younger = next_one
    b.block[block].content, b.block[block].younger = NONE, NONE


@uncounted
def store(b, row, full):
    """The first `full` blocks of a request have their content."""
    for place in range(b.begins[row] + b.stored[row], b.begins[row] + full):
        content, block = b.path[place], b.table[place]
        b.block[block].content = content
        if b.oldest[content] < 0:
            b.oldest[content] = block
        else:
            last = b.oldest[content]
            while b.block[last].younger >= 0:
                last = b.block[last].younger
            b.block[last].younger = block
    b.stored[row] = max(full, b.stored[row])


@uncounted
def release(c, b, row):
    """A request lets all its blocks go; those that no other holds are free."""
    r, first = c.rows[row], b.begins[row]
    for place in range(first, first + r.blocks):
        block = b.table[place]
        b.block[block].holders -= 1
        if b.block[block].holders == 0:
            give(c.book.pools, GPU_POOL, 1)
            if b.block[block].content < 0:
                link(b.block, b.free[0], block, NONE, b.free[0].first)
    for place in range(first + r.blocks - 1, first - 1, -1):
        block = b.table[place]
        if b.block[block].holders == 0 and b.block[block].content >= 0:
            link(b.block, b.free[0], block, b.free[0].last, NONE)
        b.table[place] = NONE
    r.blocks, b.stored[row] = 0, 0

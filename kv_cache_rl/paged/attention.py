"""Exact attention over a paged cache: chunk by chunk, merged by the log-sum-exp of the scores.

    block table --gather 512 tokens--> keys, values --library kernel-->
    (output, log-sum-exp) per chunk --merge--> output

Source: Kwon et al., PagedAttention (2309.06180); Dao et al., FlashAttention (2205.14135) for the
merge of partial softmaxes.
"""

import itertools
import math

import torch
from torch import Tensor

from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.paged.block_pool import BlockPool
from kv_cache_rl.paged.errors import whole
from kv_cache_rl.paged.gather import Workspace, workspace_for
from kv_cache_rl.paged.kernels import (
    BACKENDS,
    AttentionError,
    Kernel,
    kernel_for,
    merge_states,
    public,
    settled,
)
from kv_cache_rl.paged.kv_cache import KVCache
from kv_cache_rl.paged.plan import Plan, check_tables, plan_for
from kv_cache_rl.paged.sequences import Sequence

__all__ = [
    "BACKENDS",
    "AttentionError",
    "dense_reference",
    "merge_states",
    "paged_attention",
    "paged_prefill",
]


@torch.no_grad()
def paged_attention(
    q: Tensor, cache: KVCache, layer: int, tables: Tensor, lens: Tensor, backend: str = "auto"
) -> Tensor:
    """Attention outputs [n, heads, head_dim] of a decode step: one query per sequence.

    A NaN in a query, key or value that counts comes out as NaN, on every backend.

    Args:
        q: [n, heads, head_dim], in the pool's dtype, or float32 or float64. 16-bit keys and values
            are computed with in float32.
        tables: int [n, m] of block numbers. Entries behind a sequence's own blocks are never read.
        lens: int [n], tokens that each query sees, its own included.
        backend: "auto", or one of `BACKENDS`.

    Raises:
        AttentionError: shapes, dtypes, lengths or block numbers that do not fit.
        PoolError: a block that would be read is free.
    """
    pool = cache.pool
    kernel, groups = kernel_for(backend, pool), check_queries(q, pool, layer)
    tensors = isinstance(tables, Tensor) and isinstance(lens, Tensor) and lens.shape == (len(q),)
    if not len(q) or kernel is None or not tensors:
        owned = check_tables(tables, lens, len(q), pool)
        return _by_triton(q, pool, layer, owned, lens) if len(q) else torch.empty_like(q)
    dtype = _computed_in(q, pool)
    workspace = workspace_for(pool, dtype)
    plan = plan_for(tables, lens, pool, workspace, dtype)
    # A group's query heads are rows of one problem: their keys are read once.
    rows = (
        (q if plan.order is None else q[plan.order])
        .view(len(q), pool.kv_heads, groups, pool.head_dim)
        .to(dtype)
    )
    out = _decode(rows, pool, layer, plan, workspace, kernel).view(q.shape).to(q.dtype)
    return out if plan.order is None else torch.empty_like(q).index_copy_(0, plan.order, out)


def _decode(
    q: Tensor, pool: BlockPool, layer: int, plan: Plan, workspace: Workspace, kernel: Kernel
) -> Tensor:
    """Outputs like `q` [n, kv_heads, g, head_dim] of sequences longest first."""
    outputs, lses = q.new_zeros(plan.chunks, *q.shape), q.new_full((plan.chunks, *q.shape[:3]), -math.inf)
    for reading in plan.readings:
        tile, rows = reading.tile, slice(reading.tile.begin, reading.tile.end)
        k, v = workspace.load(pool, layer, reading.blocks, tile.end - tile.begin, reading.blank)
        new = kernel(q[rows], k[:, :, : tile.tokens], v[:, :, : tile.tokens], reading.mask, False)
        if plan.chunks == 1 and tile.end - tile.begin == len(q):
            return settled(*new)
        outputs[reading.chunk, rows], lses[reading.chunk, rows] = new
    return settled(*((outputs[0], lses[0]) if plan.chunks == 1 else merge_states(outputs, lses)))


def _by_triton(q: Tensor, pool: BlockPool, layer: int, tables: Tensor, lens: Tensor) -> Tensor:
    # Importing triton takes as long as importing torch.
    from kv_cache_rl.paged.triton_decode import paged_decode

    return paged_decode(q, pool.keys[layer], pool.values[layer], tables.int(), lens.to(q.device))


@torch.no_grad()
def paged_prefill(q: Tensor, cache: KVCache, layer: int, sequence: Sequence, start: int) -> Tensor:
    """Attention outputs [t, heads, head_dim] of queries `q` at positions from `start` on.

    The sequence's K/V is written up to the last of them. Each query sees the tokens before it and
    its own. Keys are gathered once for all queries.

    Raises:
        AttentionError: shapes, dtypes or positions that do not fit.
        CacheError: the sequence was released, or is another cache's.
    """
    pool, stop = cache.pool, start + len(q)
    groups = check_queries(q, pool, layer)
    cache.check_sequence(sequence)
    if not 0 <= start <= stop <= sequence.length:
        keys = f"sequence {sequence.id}: its keys end at {sequence.length}"
        raise AttentionError(f"queries at positions {start} to {stop} of {keys}; extend and write first")
    kernel = kernel_for("auto", pool) or public
    table = torch.tensor(sequence.blocks, device=pool.device)
    rows = (
        q.to(_computed_in(q, pool)).view(len(q), pool.kv_heads, groups, -1).permute(1, 2, 0, 3).contiguous()
    )
    out, lse = torch.empty_like(rows), rows.new_full(rows.shape[:3], -math.inf)
    workspace = workspace_for(pool, rows.dtype)
    for begin, end in _ranges(start, stop, workspace.chunk):
        first = begin // pool.block_tokens
        k, v = workspace.load(pool, layer, table[first : blocks_for(end, pool.block_tokens)], 1)
        inside = slice(begin - first * pool.block_tokens, end - first * pool.block_tokens)
        # [kv_heads, g, t, head_dim] with a stride of 0 over g: the query heads of a group share
        # keys.
        k, v = (x[0, :, None, inside].expand(-1, groups, -1, -1) for x in (k, v))
        # Queries inside the range see a triangle of it, later ones all of it.
        for low, high, causal in ((begin - start, end - start, True), (max(0, end - start), len(q), False)):
            if 0 <= low < high:
                at = (slice(None), slice(None), slice(low, high))
                new, new_lse = kernel(rows[at], k, v, None, causal)
                if begin:
                    new, new_lse = merge_states(torch.stack((out[at], new)), torch.stack((lse[at], new_lse)))
                out[at], lse[at] = new, new_lse
    return settled(out, lse).permute(2, 0, 1, 3).reshape(q.shape).to(q.dtype)


def _ranges(start: int, stop: int, chunk: int) -> list[tuple[int, int]]:
    """Token ranges that cover 0 to `stop`; none crosses a chunk's border or `start`."""
    cuts = sorted({*range(0, stop, chunk), start, stop})
    return list(itertools.pairwise(cuts))


def dense_reference(q: Tensor, k: Tensor, v: Tensor, causal_from: int | None = None) -> Tensor:
    """Attention by its definition, in float64: outputs [t, heads, dim].

    q is [t, heads, dim], k and v are [s, kv_heads, dim]. Query i sees all keys, or with
    `causal_from` those up to position ``causal_from + i``.
    """
    q, k, v = q.double(), k.double(), v.double()
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = torch.einsum("thd,shd->hts", q, k) / math.sqrt(q.shape[-1])
    if causal_from is not None:
        last = causal_from + torch.arange(len(q), device=q.device)
        scores.masked_fill_(torch.arange(len(k), device=q.device) > last[:, None], -math.inf)
    return torch.einsum("hts,shd->thd", scores.softmax(-1), v)


def check_queries(q: Tensor, pool: BlockPool, layer: int) -> int:
    """Query heads per key head.

    Raises:
        AttentionError: the queries or the layer do not fit the pool.
    """
    if not 0 <= whole(layer, f"layer {layer!r}", AttentionError) < pool.layers:
        raise AttentionError(f"layer {layer} of a cache with layers 0 to {pool.layers - 1}")
    if q.dim() != 3 or q.shape[-1] != pool.head_dim:
        raise AttentionError(
            f"q has shape {list(q.shape)}; the cache takes [queries, heads, {pool.head_dim}]"
        )
    if q.shape[1] % pool.kv_heads or not q.shape[1]:
        raise AttentionError(
            f"{q.shape[1]} query heads over {pool.kv_heads} key heads; "
            "the first must be a multiple of the second"
        )
    if q.dtype not in (pool.dtype, torch.float32, torch.float64):
        raise AttentionError(f"q is {q.dtype}, the cache holds {pool.dtype}; convert q to that or to float32")
    return q.shape[1] // pool.kv_heads


def _computed_in(q: Tensor, pool: BlockPool) -> torch.dtype:
    return torch.float64 if torch.float64 in (q.dtype, pool.dtype) else torch.float32

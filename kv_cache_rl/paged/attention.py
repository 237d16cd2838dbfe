"""Exact attention over a paged cache: chunk by chunk, merged by the log-sum-exp of the scores.

    block table --gather 512 tokens--> keys, values --library kernel--> (output, log-sum-exp) per chunk
    --merge--> output

Source: Kwon et al., PagedAttention (2309.06180); Dao et al., FlashAttention (2205.14135) for the merge of
partial softmaxes."""

import itertools
import math

import torch
from torch import Tensor, nn

from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.paged.block_pool import BlockPool
from kv_cache_rl.paged.block_table import Sequence
from kv_cache_rl.paged.gather import Workspace, workspace_for
from kv_cache_rl.paged.kernels import BACKENDS, AttentionError, Kernel, kernel_for, merge_states, public
from kv_cache_rl.paged.kv_cache import KVCache, PagedKVCache
from kv_cache_rl.paged.plan import Plan, check_tables, plan_for

__all__ = [
    "BACKENDS",
    "AttentionError",
    "PagedAttention",
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

    Args:
        q: [n, heads, head_dim], in the pool's dtype, or float32 or float64. 16-bit keys and values
            are computed with in float32.
        tables: int [n, m] of block numbers. Entries behind a sequence's own blocks are never read.
        lens: int [n], tokens that each query sees, its own included.
        backend: "auto", or one of `BACKENDS`.

    Raises:
        AttentionError: shapes, dtypes, lengths or block numbers that do not fit.
    """
    pool = cache.pool
    kernel, groups = kernel_for(backend, pool), check_queries(q, pool, layer)
    if not len(q) or kernel is None or lens.shape != (len(q),):
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
            return new[0]
        outputs[reading.chunk, rows], lses[reading.chunk, rows] = new
    return outputs[0] if plan.chunks == 1 else merge_states(outputs, lses)[0]


def _by_triton(q: Tensor, pool: BlockPool, layer: int, tables: Tensor, lens: Tensor) -> Tensor:
    from kv_cache_rl.paged.triton_decode import (
        paged_decode,
    )  # importing triton takes as long as importing torch

    return paged_decode(q, pool.keys[layer], pool.values[layer], tables.int(), lens.to(q.device))


@torch.no_grad()
def paged_prefill(q: Tensor, cache: KVCache, layer: int, sequence: Sequence, start: int) -> Tensor:
    """Attention outputs [t, heads, head_dim] of queries at positions `start`.. of a sequence whose K/V is
    written that far.

    Each sees everything before it and itself. Keys are gathered once for all queries.
    """
    pool, stop = cache.pool, start + len(q)
    groups = check_queries(q, pool, layer)
    if not 0 <= start <= stop <= sequence.length:
        keys = f"sequence {sequence.id}, whose keys end at {sequence.length}"
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
        # [kv_heads, g, t, head_dim] with a stride of 0 over g: every query head of a group reads the same
        # keys.
        k, v = (x[0, :, None, inside].expand(-1, groups, -1, -1) for x in (k, v))
        # Queries inside the range see a triangle of it, those behind it all.
        for low, high, causal in ((begin - start, end - start, True), (max(0, end - start), len(q), False)):
            if 0 <= low < high:
                at = (slice(None), slice(None), slice(low, high))
                new, new_lse = kernel(rows[at], k, v, None, causal)
                if begin:
                    new, new_lse = merge_states(torch.stack((out[at], new)), torch.stack((lse[at], new_lse)))
                out[at], lse[at] = new, new_lse
    return out.permute(2, 0, 1, 3).reshape(q.shape).to(q.dtype)


def _ranges(start: int, stop: int, chunk: int) -> list[tuple[int, int]]:
    """Token ranges that cover 0 to `stop`, none across a chunk's border or across `start`."""
    cuts = sorted({*range(0, stop, chunk), start, stop})
    return list(itertools.pairwise(cuts))


def dense_reference(q: Tensor, k: Tensor, v: Tensor, causal_from: int | None = None) -> Tensor:
    """What attention is, in float64 and in full: q [t, heads, dim], k and v [s, kv_heads, dim] → [t, heads,
    dim].

    Query i sees all keys, or with `causal_from` those up to position ``causal_from + i``.
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
    """Query heads per key head. Raises AttentionError for queries that do not fit the pool."""
    if not 0 <= layer < pool.layers:
        raise AttentionError(f"layer {layer} of a cache with layers 0 to {pool.layers - 1}")
    if q.dim() != 3 or q.shape[-1] != pool.head_dim:
        raise AttentionError(
            f"q has shape {list(q.shape)}; the cache takes [queries, heads, {pool.head_dim}]"
        )
    if q.shape[1] % pool.kv_heads or not q.shape[1]:
        raise AttentionError(
            f"{q.shape[1]} query heads over {pool.kv_heads} key heads; the first must be a multiple of the second"
        )
    if q.dtype not in (pool.dtype, torch.float32, torch.float64):
        raise AttentionError(f"q is {q.dtype}, the cache holds {pool.dtype}; convert q to that or to float32")
    return q.shape[1] // pool.kv_heads


def _computed_in(q: Tensor, pool: BlockPool) -> torch.dtype:
    return torch.float64 if torch.float64 in (q.dtype, pool.dtype) else torch.float32


class PagedAttention(nn.Module):
    """Projections and attention over one sequence's cache (the seed's interface): what is cached is
    projected.
    """

    def __init__(self, hidden_dim: int, num_heads: int, block_size: int) -> None:
        super().__init__()
        if min(hidden_dim, block_size) < 1:
            raise AttentionError(
                f"{hidden_dim} hidden numbers, blocks of {block_size} tokens; both are at least 1"
            )
        if num_heads < 1 or hidden_dim % num_heads:
            raise AttentionError(
                f"{hidden_dim} hidden numbers over {num_heads} heads; the first must be a multiple of the second"
            )
        self.hidden_dim, self.num_heads, self.block_size = hidden_dim, num_heads, block_size
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Linear(hidden_dim, hidden_dim, bias=False) for _ in range(3)
        )

    @torch.no_grad()
    def append(self, states: Tensor, cache: PagedKVCache) -> None:
        """Projects the states [t, hidden_dim] of new tokens to keys and values, and caches these."""
        cache.append_token_kv_batch(self.k_proj(states), self.v_proj(states))

    @torch.no_grad()
    def forward_paged(self, query: Tensor, cache: PagedKVCache) -> Tensor:
        """Outputs [1, t, hidden_dim] of states `query` [1, t, hidden_dim], each over all that `cache` holds."""
        if cache.block_size != self.block_size or cache.hidden_dim != self.hidden_dim:
            have = f"{cache.block_size} tokens of {cache.hidden_dim} numbers"
            raise AttentionError(
                f"the cache has blocks of {have}, the layer {self.block_size} of {self.hidden_dim}"
            )
        if query.dim() != 3 or len(query) != 1 or query.shape[2] != self.hidden_dim:
            raise AttentionError(
                f"query has shape {list(query.shape)}, not [1, t, {self.hidden_dim}]: a cache is one sequence's"
            )
        heads = self.q_proj(query[0]).unflatten(-1, (self.num_heads, -1))
        table = torch.tensor([cache.block_table], dtype=torch.int32).expand(len(heads), -1)
        view = KVCache(cache.allocator.with_heads(self.num_heads))
        return paged_attention(heads, view, 0, table, torch.full((len(heads),), cache.num_tokens)).flatten(1)[
            None
        ]

    @torch.no_grad()
    def forward_vanilla(self, query: Tensor, states: Tensor) -> Tensor:
        """The same from the states [1, s, hidden_dim] of the cached tokens, without a cache, in float64."""
        q, k, v = (
            project(x[0]).unflatten(-1, (self.num_heads, -1))
            for project, x in ((self.q_proj, query), (self.k_proj, states), (self.v_proj, states))
        )
        return dense_reference(q, k, v).flatten(1)[None]

"""Decode attention from the block table in one kernel, split over the keys to fill a GPU.

    grid [n, kv_heads, splits]: a split's tokens, 64 at a time -> its output and log-sum-exp
    grid [n, heads]:            the splits of a head           -> output

Without a GPU the same kernels run in Triton's interpreter, which is slow and meant for tests. Not
measured on a GPU.

Source: Dao et al., "Flash-Decoding" (2023); Kwon et al., PagedAttention (2309.06180).
"""

import math
import os
from typing import Any

import torch
from torch import Tensor

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # triton reads it once, when it is first imported
import triton
import triton.language as tl

TILE_TOKENS = 64
LOWEST = tl.constexpr(-3.4028234663852886e38)
"""The smallest float32, in place of -inf: its difference to itself is 0 and not NaN."""
PROGRAMS = 1024
"""Programs to aim at: several for each of a large GPU's 132 multiprocessors."""


@triton.jit
def _split_kernel(
    q, keys, values, tables, lens, partial, lses,
    scale, table_stride, block_stride, slot_stride, head_stride, split_tokens,
    BLOCK: tl.constexpr, GROUPS: tl.constexpr, PADDED_GROUPS: tl.constexpr,
    DIM: tl.constexpr, PADDED_DIM: tl.constexpr, TILE: tl.constexpr, HALVES: tl.constexpr,
):  # fmt: skip
    """Attention of one sequence's group of query heads over one split of its tokens."""
    sequence, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    kv_heads, splits = tl.num_programs(1), tl.num_programs(2)
    length = tl.load(lens + sequence)
    begin = split * split_tokens
    end = tl.minimum(begin + split_tokens, length)
    group, dim = tl.arange(0, PADDED_GROUPS), tl.arange(0, PADDED_DIM)
    own = (group[:, None] < GROUPS) & (dim[None, :] < DIM)
    at = ((sequence * kv_heads + head) * GROUPS + group)[:, None] * DIM + dim[None, :]
    query = tl.load(q + at, mask=own, other=0.0)
    best = tl.full([PADDED_GROUPS], LOWEST, tl.float32)
    total = tl.zeros([PADDED_GROUPS], tl.float32)
    acc = tl.zeros([PADDED_GROUPS, PADDED_DIM], tl.float32)
    for first in range(begin, end, TILE):
        token = first + tl.arange(0, TILE)
        here = token < end
        block = tl.load(tables + sequence * table_stride + token // BLOCK, mask=here, other=0).to(tl.int64)
        slot = block * block_stride + (token % BLOCK) * slot_stride + head * head_stride
        inside = here[:, None] & (dim[None, :] < DIM)
        k = tl.load(keys + slot[:, None] + dim[None, :], mask=inside, other=0.0).to(query.dtype)
        v = tl.load(values + slot[:, None] + dim[None, :], mask=inside, other=0.0).to(query.dtype)
        scores = tl.dot(query, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(here[None, :], scores, LOWEST)
        new = tl.maximum(best, tl.max(scores, 1))
        weights = tl.where(here[None, :], tl.exp(scores - new[:, None]), 0.0)
        shrink = tl.exp(best - new)
        total = total * shrink + tl.sum(weights, 1)
        high = weights.to(query.dtype)
        acc = acc * shrink[:, None] + tl.dot(high, v, input_precision="ieee")
        if HALVES:
            # A second product adds what rounding the weights to 16 bits lost. It takes no time,
            # because the kernel waits for memory.
            acc += tl.dot((weights - high.to(tl.float32)).to(query.dtype), v, input_precision="ieee")
        best = new
    row = ((sequence * kv_heads + head) * splits + split) * GROUPS + group
    some = tl.where(total > 0, total, 1.0)
    tl.store(partial + row[:, None] * DIM + dim[None, :], acc / some[:, None], mask=own)
    tl.store(lses + row, tl.where(total > 0, best + tl.log(some), LOWEST), mask=group < GROUPS)


@triton.jit
def _merge_kernel(
    partial, lses, out, splits,
    GROUPS: tl.constexpr, DIM: tl.constexpr, PADDED_DIM: tl.constexpr, PADDED_SPLITS: tl.constexpr,
):  # fmt: skip
    """One head's output from its splits, weighted by their log-sum-exp (0 for an empty split).

    NaN where no split has a score above `LOWEST`, as in a softmax of nothing but -inf.
    """
    sequence, head = tl.program_id(0), tl.program_id(1)
    kv_heads = tl.num_programs(1) // GROUPS
    split, dim = tl.arange(0, PADDED_SPLITS), tl.arange(0, PADDED_DIM)
    row = ((sequence * kv_heads + head // GROUPS) * splits + split) * GROUPS + head % GROUPS
    lse = tl.load(lses + row, mask=split < splits, other=LOWEST)
    best = tl.max(lse, 0)
    weights = tl.exp(lse - best)
    inside = (split[:, None] < splits) & (dim[None, :] < DIM)
    parts = tl.load(partial + row[:, None] * DIM + dim[None, :], mask=inside, other=0.0)
    # Triton declares what a reduction returns as a tuple; of one tensor it is a tensor.
    merged = tl.sum(parts * weights[:, None], 0) / tl.sum(weights, 0)  # pyrefly: ignore[unsupported-operation]
    merged = tl.where(best > LOWEST, merged, float("nan"))
    tl.store(out + (sequence * tl.num_programs(1) + head) * DIM + dim, merged, mask=dim < DIM)


def paged_decode(
    q: Tensor, keys: Tensor, values: Tensor, tables: Tensor, lens: Tensor, splits: int | None = None
) -> Tensor:
    """Attention outputs [n, heads, head_dim] of one query per sequence.

    The caller has checked shapes, tables and lengths.

    Args:
        q: [n, heads, head_dim]; float32 queries over 16-bit keys are computed with in float32.
        keys, values: [blocks, block_tokens, kv_heads, head_dim] of one layer.
        tables: int32 [n, m]; entries behind a sequence's own blocks are not read.
        lens: int64 [n], at least 1.
        splits: parts that a sequence's tokens are cut into. None: as many as fill the GPU.
    """
    sequences, heads, dim = q.shape
    _, block, kv_heads, _ = keys.shape
    groups = heads // kv_heads
    longest = tables.shape[1] * block
    wanted = splits or min(
        math.ceil(PROGRAMS / (sequences * kv_heads)), math.ceil(longest / (4 * TILE_TOKENS))
    )
    split_tokens = math.ceil(longest / wanted / TILE_TOKENS) * TILE_TOKENS
    splits = math.ceil(longest / split_tokens)
    # Tensor cores have no float64. The interpreter multiplies the bits of bfloat16 as whole
    # numbers.
    as_given = q.dtype == keys.dtype != torch.float64 and (q.is_cuda or q.dtype != torch.bfloat16)
    queries = q.contiguous() if as_given else q.float().contiguous()
    partial = torch.empty(sequences, kv_heads, splits, groups, dim, dtype=torch.float32, device=q.device)
    lses = torch.empty(sequences, kv_heads, splits, groups, dtype=torch.float32, device=q.device)
    out = torch.empty(q.shape, dtype=torch.float32, device=q.device)
    shapes: dict[str, Any] = {
        "GROUPS": groups,
        "DIM": dim,
        "PADDED_DIM": max(16, triton.next_power_of_2(dim)),
    }
    tiles: dict[str, Any] = {"BLOCK": block, "TILE": TILE_TOKENS, "HALVES": queries.dtype != torch.float32}
    # A tensor core multiplies 16 rows or more.
    tiles["PADDED_GROUPS"] = max(16, triton.next_power_of_2(groups))
    _split_kernel[(sequences, kv_heads, splits)](
        queries, keys, values, tables.contiguous(), lens, partial, lses,
        1 / math.sqrt(dim), tables.shape[1], keys.stride(0), keys.stride(1), keys.stride(2), split_tokens,
        **shapes, **tiles,
    )  # fmt: skip
    padded: dict[str, Any] = {"PADDED_SPLITS": triton.next_power_of_2(splits)}
    _merge_kernel[(sequences, heads)](partial, lses, out, splits, **shapes, **padded)
    return out.to(q.dtype)

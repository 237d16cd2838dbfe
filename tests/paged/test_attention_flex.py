"""Torch's own paged attention (experimental) reads the same physical pages and finds the same."""

import pytest
import torch

from kv_cache_rl.paged.attention import paged_attention
from kv_cache_rl.paged.block_pool import BlockPool
from kv_cache_rl.paged.kv_cache import KVCache

flex = pytest.importorskip("torch.nn.attention.flex_attention", reason="this torch has no flex_attention")
experimental = pytest.importorskip(
    "torch.nn.attention.experimental._paged_attention", reason="this torch has no _paged_attention"
)


@pytest.mark.parametrize(("block", "heads", "kv_heads"), [(16, 4, 4), (16, 8, 2), (32, 6, 1), (8, 4, 2)])
def test_torchs_paged_attention_over_the_same_pages_gives_the_same(block, heads, kv_heads):
    pages, dim, lens = 24, 16, [1, 2 * block, 3 * block + 1, 4 * block - 1]
    rng = torch.Generator().manual_seed(block)
    theirs = experimental.PagedAttention(pages, block, len(lens), device="cpu")
    k_cache, v_cache = torch.randn(2, 1, kv_heads, pages * block, dim, generator=rng)
    for i in (2, 0, 3, 1):  # not in order, so that pages are permuted
        here, positions = torch.tensor([i]), torch.arange(lens[i])[None]
        theirs.reserve(here, torch.tensor(lens[i]))
        k, v = torch.randn(2, 1, kv_heads, lens[i], dim, generator=rng)
        theirs.assign(here, positions, k, v, k_cache, v_cache)
    last = torch.tensor(lens)
    logical = flex.create_block_mask(
        lambda b, h, q, kv: kv < last[b],
        len(lens),
        None,
        1,
        5 * block,
        device="cpu",
        BLOCK_SIZE=(block, block),
    )
    mask, q = theirs.convert_logical_block_mask(logical), torch.randn(len(lens), heads, 1, dim, generator=rng)
    # Every sequence sees the one physical cache; flex_attention wants it once per sequence where it is not
    # compiled.
    seen = (x.expand(len(lens), -1, -1, -1) for x in (k_cache, v_cache))
    want = flex.flex_attention(q, *seen, block_mask=mask, enable_gqa=heads != kv_heads)[:, :, 0]

    pool = BlockPool(1, pages, block, kv_heads, dim)
    pool.keys[0], pool.values[0] = (
        x[0].transpose(0, 1).reshape(pages, block, kv_heads, dim) for x in (k_cache, v_cache)
    )
    pool.take(pages)
    got = paged_attention(q[:, :, 0], KVCache(pool), 0, theirs.page_table.int(), last)
    assert torch.allclose(got, want, atol=1e-5)
    assert len({int(p) for row in theirs.page_table for p in row if p >= 0}) == sum(
        -(-n // block) for n in lens
    )

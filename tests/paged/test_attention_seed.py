"""The seed's names keep its promises: cached vectors are projected, forks are safe, attention is dense."""

import pytest
import torch

from kv_cache_rl.paged.attention import AttentionError
from kv_cache_rl.paged.block_pool import PoolError
from kv_cache_rl.paged.kv_cache import CacheError
from kv_cache_rl.paged.seed import BlockAllocator, PagedAttention, PagedKVCache


def layer_and_cache(hidden=32, heads=4, block=4, blocks=20):
    torch.manual_seed(0)
    allocator = BlockAllocator(total_blocks=blocks, block_size=block, hidden_dim=hidden)
    for tensor in (*allocator.keys, *allocator.values):
        tensor.fill_(torch.nan)
    return PagedAttention(hidden, heads, block), PagedKVCache(block, hidden, allocator), allocator


@pytest.mark.parametrize("tokens", [1, 4, 5, 23])
@pytest.mark.parametrize("heads", [1, 4, 32])
def test_paged_equals_dense_attention_over_the_projected_states(tokens, heads):
    layer, cache, _ = layer_and_cache(heads=heads)
    states, query = torch.randn(1, tokens, 32), torch.randn(1, 3, 32)
    for state in states[0]:
        cache.append_token_kv(layer.k_proj(state), layer.v_proj(state))
    assert cache.num_tokens == tokens and len(cache.block_table) == -(-tokens // 4)
    want = layer.forward_vanilla(query, states)
    assert torch.allclose(layer.forward_paged(query, cache).double(), want, atol=1e-5)
    k, v = cache.keys_values()
    assert torch.allclose(k, layer.k_proj(states[0]), atol=1e-5) and torch.allclose(
        v, layer.v_proj(states[0]), atol=1e-5
    )
    unprojected = layer.forward_vanilla(query, states) - layer.forward_vanilla(query, states * 1.5)
    assert unprojected.abs().max() > 1e-3  # the states do matter, so that the equality above says something


def test_append_projects_and_equals_appending_projections_one_by_one():
    layer, cache, allocator = layer_and_cache()
    other, states = PagedKVCache(4, 32, allocator), torch.randn(7, 32)
    layer.append(states, cache)
    for state in states:
        other.append_token_kv(layer.k_proj(state), layer.v_proj(state))
    for mine, theirs in zip(cache.keys_values(), other.keys_values(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_plain_append_on_a_fork_does_not_overwrite_the_siblings_token():
    _, cache, allocator = layer_and_cache()
    vectors = torch.randn(8, 32)
    cache.append_token_kv_batch(vectors[:6], -vectors[:6])
    fork = cache.fork()
    fork.append_token_kv(vectors[6], -vectors[6])
    cache.append_token_kv(vectors[7], -vectors[7])
    assert torch.equal(cache.keys_values()[0], torch.cat((vectors[:6], vectors[7:])))
    assert torch.equal(fork.keys_values()[0], vectors[:7])
    assert torch.equal(fork.keys_values()[1], -vectors[:7])
    assert allocator.cache.copies == 1
    allocator.cache.check()


def test_freeing_gives_every_block_back_and_ends_the_cache():
    _, cache, allocator = layer_and_cache()
    cache.append_token_kv_batch(torch.randn(9, 32), torch.randn(9, 32))
    fork = cache.fork()
    cache.free()
    assert allocator.free == 17 and fork.num_tokens == 9
    fork.free()
    assert allocator.free == 20
    with pytest.raises(CacheError, match="was released"):
        fork.append_token_kv(torch.zeros(32), torch.zeros(32))
    with pytest.raises(CacheError, match="was released"):
        fork.free()
    allocator.cache.check()


def test_bad_input_under_the_seeds_names_is_refused_and_changes_nothing():
    layer, cache, allocator = layer_and_cache(blocks=2)
    with pytest.raises(PoolError, match="block_tokens = 0"):
        BlockAllocator(4, 0, 32)
    with pytest.raises(AttentionError, match="32 hidden numbers over 5 heads"):
        PagedAttention(32, 5, 4)
    for sizes in ((0, 1, 4), (8, 2, 0), (-8, 2, 4)):
        with pytest.raises(AttentionError, match="both are at least 1"):
            PagedAttention(*sizes)
    for shape in ((2, 3, 32), (3, 32), (1, 3, 31)):
        with pytest.raises(
            AttentionError, match=r"query has shape .*, not \[1, t, 32\]: a cache is one sequence's"
        ):
            layer.forward_paged(torch.randn(shape), cache)
    with pytest.raises(
        CacheError,
        match="a cache of blocks of 8 tokens of 32 numbers on an allocator of 4 tokens of 32 numbers",
    ):
        PagedKVCache(8, 32, allocator)
    with pytest.raises(PoolError, match="3 exact blocks asked for, 2 of 2 are free"):
        cache.append_token_kv_batch(torch.randn(9, 32), torch.randn(9, 32))
    with pytest.raises(CacheError, match="NaN"):
        cache.append_token_kv(torch.full((32,), torch.nan), torch.zeros(32))
    with pytest.raises(CacheError, match=r"shape \[1, 1, 31\]"):
        cache.append_token_kv(torch.zeros(31), torch.zeros(31))
    with pytest.raises(AttentionError, match="lengths run from 0 to 0"):
        layer.forward_paged(torch.randn(1, 1, 32), cache)
    with pytest.raises(
        AttentionError, match="the cache has blocks of 4 tokens of 32 numbers, the layer 16 of 32"
    ):
        PagedAttention(32, 4, 16).forward_paged(torch.randn(1, 1, 32), cache)
    assert cache.num_tokens == 0 and allocator.free == 2
    allocator.cache.check()

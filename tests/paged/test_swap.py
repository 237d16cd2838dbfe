"""Swapping out and in, and computing again: the same keys, values and logits, and no block lost."""

import pytest
import torch
from decoders import contents, decoder, prompt
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_cache_rl.core.pool import LedgerError
from kv_cache_rl.paged.block_pool import PoolError
from kv_cache_rl.paged.kv_cache import CacheError
from kv_cache_rl.paged.sequences import Sequence
from kv_cache_rl.paged.swap import HostPool, SwapError, fill, recompute, swap_in, swap_out

CLOSE = 1e-5


def begun(model, blocks=20, block_tokens=4, length=11):
    """(cache, host pool as large, sequence of `length` tokens)."""
    cache, sequence = model.new_cache(blocks, block_tokens), Sequence()
    model.prefill(cache, sequence, prompt(model, length))
    return cache, HostPool(cache.pool, blocks), sequence


def poison(cache):
    """Fills every free block with NaN, so that a read from one is seen."""
    free = [block for block in range(cache.pool.blocks) if not cache.pool.references(block)]
    for tensor in (*cache.pool.keys, *cache.pool.values):
        tensor[free] = torch.nan


@given(st.integers(1, 16), st.integers(1, 50), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_what_was_swapped_out_and_in_is_the_same_to_the_bit(block_tokens, length, seed):
    model = decoder(seed % 5)
    cache, host, sequence = begun(model, 60, block_tokens, length)
    before, held = contents(cache, sequence), len(sequence.blocks)
    assert swap_out(cache, host, sequence) == held == host.used
    assert cache.pool.free == 60 and sequence.blocks == []
    poison(cache)
    other = Sequence()
    model.prefill(cache, other, prompt(model, 7, seed + 1))  # takes what was freed
    swap_in(cache, host, sequence)
    assert torch.equal(contents(cache, sequence), before) and host.used == 0
    assert not set(sequence.blocks) & set(other.blocks)
    logits = model.decode(cache, [sequence], [3])[0]
    assert (logits - model.dense_logits([*sequence.tokens])[-1]).abs().max() < CLOSE
    cache.check()
    host.check()


def test_swapping_out_frees_the_blocks_and_leaves_nothing_of_the_pool_behind():
    """What the seed got wrong: nothing was freed, and the swapped sequence was a view of the pool."""
    cache, host, sequence = begun(decoder(0))
    before, blocks = contents(cache, sequence), list(sequence.blocks)
    assert swap_out(cache, host, sequence) == 3
    assert cache.pool.free == cache.pool.blocks and all(cache.pool.references(block) == 0 for block in blocks)
    for tensor in (*cache.pool.keys, *cache.pool.values):
        assert tensor.untyped_storage().data_ptr() != host.rows.untyped_storage().data_ptr()
        tensor.fill_(torch.nan)
    swap_in(cache, host, sequence)
    assert torch.equal(contents(cache, sequence), before)


def test_of_a_shared_prefix_only_the_sequences_own_blocks_are_freed():
    model = decoder(0)
    cache, host, first = begun(model, length=8)
    second = cache.fork(first)
    model.decode(cache, [second], [5])
    assert swap_out(cache, host, second) == 1
    assert contents(cache, first).isfinite().all() and cache.pool.used == 2
    swap_in(cache, host, second)
    assert cache.pool.used == 5 and not set(first.blocks) & set(second.blocks)
    logits = model.decode(cache, [first, second], [6, 7])
    for row, sequence in zip(logits, (first, second), strict=True):
        assert (row - model.dense_logits(sequence.tokens)[-1]).abs().max() < CLOSE
    cache.check()


@given(st.integers(1, 16), st.integers(2, 50), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_recomputing_gives_back_the_keys_values_and_logits(block_tokens, length, seed):
    """What the seed got wrong: it returned random numbers."""
    model = decoder(seed % 5)
    cache, _, sequence = begun(model, 60, block_tokens, length)
    model.decode(cache, [sequence], [3])
    before = contents(cache, sequence)
    cache.release(sequence)
    poison(cache)
    logits = recompute(model, cache, sequence)
    assert (contents(cache, sequence) - before).abs().max() < CLOSE
    assert (logits - model.dense_logits(sequence.tokens)[-1]).abs().max() < CLOSE
    assert torch.equal(recomputed_again(model, cache, sequence), logits)
    cache.check()


def recomputed_again(model, cache, sequence):
    cache.release(sequence)
    return recompute(model, cache, sequence)


def test_the_shipped_model_goes_on_alike_whether_swapped_recomputed_or_left_alone(shipped):
    tokens = shipped.tokenizer.encode(
        "elsa is at the tower. the number of the vault is 6075. leon takes the drum. "
    )
    cache, logits = shipped.new_cache(60, 16), []
    host = HostPool(cache.pool, 20)
    for way in ("alone", "swapped", "recomputed"):
        sequence = Sequence()
        shipped.prefill(cache, sequence, tokens)
        if way == "swapped":
            swap_out(cache, host, sequence)
            poison(cache)
            swap_in(cache, host, sequence)
        elif way == "recomputed":
            cache.release(sequence)
            poison(cache)
            recompute(shipped, cache, sequence)
        logits.append(shipped.decode(cache, [sequence], [ord("w")])[0])
    assert (logits[1] - logits[0]).abs().max() < CLOSE and (logits[2] - logits[0]).abs().max() < CLOSE
    cache.check()


def test_a_full_host_pool_refuses_and_the_sequence_stays():
    model = decoder(0)
    cache, _, sequence = begun(model)
    host = HostPool(cache.pool, 2)
    before = contents(cache, sequence)
    with pytest.raises(
        SwapError, match="3 blocks for a host pool with 2 of 2 free; recompute instead, or enlarge it"
    ):
        swap_out(cache, host, sequence)
    cache.check()
    host.check()
    assert torch.equal(contents(cache, sequence), before) and host.used == 0 and cache.pool.used == 3


def test_a_full_pool_refuses_to_swap_in_and_the_host_keeps_it():
    model = decoder(0)
    cache, host, sequence = begun(model, blocks=4)
    before = contents(cache, sequence)
    swap_out(cache, host, sequence)
    other = Sequence()
    model.prefill(cache, other, [1] * 6)
    with pytest.raises(PoolError, match="3 exact blocks asked for, 2 of 4 are free"):
        swap_in(cache, host, sequence)
    with pytest.raises(PoolError, match="3 exact blocks asked for, 2 of 4 are free"):
        recompute(model, cache, sequence)
    assert sequence.released and host.used == 3
    cache.release(other)
    swap_in(cache, host, sequence)
    assert torch.equal(contents(cache, sequence), before)
    cache.check()
    host.check()


def test_what_is_not_there_cannot_be_swapped():
    model = decoder(0)
    cache, host, sequence = begun(model)
    with pytest.raises(SwapError, match="is not in this host pool; swap it out first"):
        swap_in(cache, host, sequence)
    with pytest.raises(SwapError, match="has the K/V of all its 11 tokens"):
        recompute(model, cache, sequence)
    swap_out(cache, host, sequence)
    with pytest.raises(SwapError, match="holds no blocks: it was released or swapped out before"):
        swap_out(cache, host, sequence)
    with pytest.raises(CacheError, match="was released"):
        cache.fork(sequence)
    with pytest.raises(SwapError, match=r"host rows \[5\] are free already"):
        host.give([5])
    with pytest.raises(SwapError, match="a host pool of 0 blocks; give at least 1"):
        HostPool(cache.pool, 0)
    cache.check()
    host.check()


@pytest.mark.parametrize("other", [{"layers": 3}, {"kv_heads": 4}, {"head_dim": 16}])
def test_a_host_pool_for_another_pool_or_dtype_is_refused(other):
    cache, _, sequence = begun(decoder(0))
    for model in (decoder(0, **other), decoder(0).to(torch.float64)):
        host = HostPool(model.new_cache(1, 4).pool, 20)
        with pytest.raises(SwapError, match=r"the host pool holds .*; build the host pool for this pool"):
            swap_out(cache, host, sequence)
        host.check()
        assert host.free == 20 and sequence.length == 11
    cache.check()


def test_books_that_do_not_balance_are_found():
    cache, host, sequence = begun(decoder(0))
    swap_out(cache, host, sequence)
    host.held[-1] = host.held[sequence.id]
    with pytest.raises(LedgerError, match="host pool: 17 rows free, 3 taken, 20 in all"):
        host.check()


def test_bytes_are_those_of_the_tensors():
    cache, host, _ = begun(decoder(0))
    assert host.nbytes == host.rows.numel() * 4 == 20 * cache.pool.block_nbytes


def test_filling_writes_all_layers():
    cache, host, sequence = begun(decoder(0))
    rows = host.store(cache.pool, sequence.blocks)
    target = cache.pool.take(3)
    fill(cache.pool, target, host.read(rows))
    for tensor in (*cache.pool.keys, *cache.pool.values):
        assert torch.equal(tensor[target], tensor[sequence.blocks])

"""Swapping and recomputing one sequence by turns, with failures: nothing is lost or brought in twice."""

import pytest
import torch
from decoders import contents, decoder, prompt

from kv_cache_rl.core.pool import LedgerError
from kv_cache_rl.paged.kv_cache import CacheError
from kv_cache_rl.paged.sequences import Sequence
from kv_cache_rl.paged.swap import HostPool, SwapError, recompute, swap_in, swap_out

CLOSE = 1e-5


def begun(model):
    """(cache of 20 blocks, host pool as large, sequence of 11 tokens)."""
    cache, sequence = model.new_cache(20, 4), Sequence()
    model.prefill(cache, sequence, prompt(model, 11))
    return cache, HostPool(cache.pool, 20), sequence


def test_what_was_computed_anew_is_not_swapped_in_over_itself():
    model = decoder(0)
    cache, host, sequence = begun(model)
    swap_out(cache, host, sequence)
    recompute(model, cache, sequence)
    with pytest.raises(SwapError, match="has 3 blocks: it was computed anew; release it first"):
        swap_in(cache, host, sequence)
    cache.check()
    host.check()
    assert (cache.pool.used, host.used) == (3, 3)
    cache.release(sequence)
    swap_in(cache, host, sequence)
    cache.check()
    host.check()
    assert (cache.pool.used, host.used) == (3, 0)


def test_a_second_swap_out_replaces_what_the_first_left_on_the_host():
    model = decoder(0)
    cache, host, sequence = begun(model)
    swap_out(cache, host, sequence)
    recompute(model, cache, sequence)
    model.decode(cache, [sequence], [3])
    before = contents(cache, sequence)
    swap_out(cache, host, sequence)
    host.check()
    assert host.used == 3
    swap_in(cache, host, sequence)
    assert torch.equal(contents(cache, sequence), before) and host.used == 0


def test_rows_that_no_sequence_holds_are_found():
    cache, host, sequence = begun(decoder(0))
    rows = host.store(cache.pool, sequence.blocks)
    host.check(rows)
    with pytest.raises(LedgerError, match="17 rows free, 3 taken, 20 in all; their holders list 0"):
        host.check()


def test_a_recomputation_that_fails_leaves_the_sequence_released_and_without_blocks():
    model = decoder(0)
    cache, _, sequence = begun(model)
    before = contents(cache, sequence)
    cache.release(sequence)
    weight = model.weights["model.layers.1.self_attn.k_proj.weight"]
    good = weight.clone()
    weight.fill_(torch.nan)
    with pytest.raises(CacheError, match="holds NaN or infinity"):
        recompute(model, cache, sequence)
    assert sequence.released and not sequence.blocks and cache.pool.free == 20
    weight.copy_(good)
    recompute(model, cache, sequence)
    assert (contents(cache, sequence) - before).abs().max() < CLOSE
    cache.check()


def test_recomputing_what_is_missing_behind_the_cached_tokens_is_exact():
    """A sequence that keeps its first tokens' keys and values, and names more."""
    model = decoder(0)
    cache, _, sequence = begun(model)
    whole, alone = model.new_cache(20, 4), Sequence()
    model.prefill(whole, alone, [*prompt(model, 11), 3, 5, 8])
    sequence.tokens += [3, 5, 8]
    logits = recompute(model, cache, sequence)
    assert (contents(cache, sequence) - contents(whole, alone)).abs().max() < CLOSE
    assert (logits - model.dense_logits(sequence.tokens)[-1]).abs().max() < CLOSE


def test_nothing_is_swapped_into_a_pool_of_another_shape():
    cache, host, sequence = begun(decoder(0))
    swap_out(cache, host, sequence)
    other = decoder(0).new_cache(20, 8)
    with pytest.raises(SwapError, match="build the host pool for this pool"):
        swap_in(other, host, sequence)
    other.check()
    host.check()
    assert other.pool.free == 20 and host.used == 3

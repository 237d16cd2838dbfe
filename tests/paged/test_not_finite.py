"""What is not finite comes out as in dense attention by its definition, on every backend; logits never
have it.
"""

import math

import pytest
import torch
from decoders import decoder
from hypothesis import given, settings
from hypothesis import strategies as st
from poisoned import Poisoned

from kv_cache_rl.paged.attention import dense_reference, paged_attention, paged_prefill
from kv_cache_rl.paged.decoding import beam, greedy, sample
from kv_cache_rl.paged.errors import RequestError
from kv_cache_rl.paged.kernels import TRITON, flash, public
from kv_cache_rl.paged.kv_cache import CacheError
from kv_cache_rl.paged.quant import QuantError, quantise
from kv_cache_rl.paged.quantised_blocks import QuantisedBlocks, quantise_filled
from kv_cache_rl.paged.scheduler import Scheduler
from kv_cache_rl.paged.seed import BlockAllocator, PagedAttention, PagedKVCache
from kv_cache_rl.paged.sequences import Sequence, slot_mapping

BACKENDS = ["auto", "flash", "public", *(["triton"] if TRITON else [])]
NAN, INF = math.nan, math.inf


def kinds(x):
    """0 for a number, 1 for NaN, 2 for an infinity, of each element."""
    return x.isnan().int() + 2 * x.isinf().int()


def spoilt(case, what, value, at):
    """The queries, after `value` was written into the first sequence's queries, keys or values."""
    q = case.normal(len(case.sequences), 4, 8)
    pool, first = case.cache.pool, case.sequences[0]
    slots = slot_mapping(first, 0, first.length, pool.block_tokens)
    if what == "q":
        q[0, 1, 3] = value
    elif what == "all q":
        q[0] = value
    else:
        places = slice(None) if what.startswith("all") else min(at, first.length - 1)
        tensor, dense = (pool.keys, case.k) if what.endswith("k") else (pool.values, case.v)
        tensor[0].flatten(0, 1)[slots[places], 0, 3] = value
        dense[0][places, 0, 3] = value
    return q


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("lens", [[7, 3], [700, 20]], ids=str)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("what", ["q", "all q", "k", "all k", "v", "all v"])
def test_what_is_not_finite_shows_where_it_does_in_dense_attention(what, value, lens, dtype, backend):
    case = Poisoned(1, lens, dtype=dtype)
    q = spoilt(case, what, value, 17)
    got = paged_attention(q, case.cache, 0, case.tables(), case.lens(), backend)
    want = torch.stack([dense_reference(q[i : i + 1], case.k[i], case.v[i])[0] for i in range(len(lens))])
    assert torch.equal(kinds(got), kinds(want))
    assert torch.allclose(got.double(), want, atol=1e-5, equal_nan=True)


@given(
    length=st.integers(1, 40),
    ahead=st.integers(0, 30),
    what=st.sampled_from(["q", "k", "all k", "v"]),
    value=st.sampled_from([NAN, INF, -INF]),
    at=st.integers(0, 39),
)
@settings(max_examples=60, deadline=None)
def test_a_prefill_shows_it_from_the_token_on_that_sees_it(length, ahead, what, value, at):
    case = Poisoned(3, [length, 5], shared=ahead)
    first, pool = case.sequences[0], case.cache.pool
    q, at = case.normal(length, 4, 8), min(at, length - 1)
    if what == "q":
        q[at, 1, 3] = value
    else:
        places = slice(None) if what == "all k" else ahead + at
        slots = slot_mapping(first, 0, first.length, pool.block_tokens)
        tensor, dense = (pool.keys, case.k) if what.endswith("k") else (pool.values, case.v)
        tensor[0].flatten(0, 1)[slots[places], 0, 3] = value
        dense[0][places, 0, 3] = value
    got = paged_prefill(q, case.cache, 0, first, ahead)
    want = dense_reference(q, case.k[0], case.v[0], causal_from=ahead)
    # A value that a later token holds has a weight of 0 in the definition, and 0 x NaN is NaN.
    seen = torch.arange(length) >= (at if what == "v" else 0)
    assert torch.equal(kinds(got)[seen], kinds(want)[seen])


def test_the_kernel_of_torch_is_corrected_where_it_takes_nan_for_a_masked_row():
    """Torch answers 0 for rows of fewer than 16 scores that are all NaN."""
    q, k, v = torch.full((1, 1, 1, 8), NAN), torch.ones(1, 1, 3, 8), torch.ones(1, 1, 3, 8)
    assert all(x.isnan().all() for x in flash(q, k, v, None, False))
    # A log-sum-exp of 0 that is a true one.
    out, lse = flash(torch.zeros(1, 1, 1, 8), k[:, :, :1], 5 * v[:, :, :1], None, False)
    assert torch.equal(out, torch.full((1, 1, 1, 8), 5.0)) and torch.equal(lse, torch.zeros(1, 1, 1))


def test_a_chunk_of_nothing_but_minus_infinity_has_no_weight():
    """The first 512 tokens of a sequence count for nothing, the others do."""
    case = Poisoned(5, [600], kv_heads=1)
    pool, q = case.cache.pool, case.normal(1, 1, 8).abs()
    slots = slot_mapping(case.sequences[0], 0, 512, 16)
    pool.keys[0].flatten(0, 1)[slots] = -INF
    case.k[0][:512] = -INF
    want = dense_reference(q, case.k[0], case.v[0])
    assert want.isfinite().all()
    for backend in BACKENDS:
        got = paged_attention(q, case.cache, 0, case.tables(), case.lens(), backend)
        assert torch.allclose(got.double(), want, atol=1e-5)


def test_scores_below_all_that_kernels_begin_with_are_weighed_all_the_same():
    case = Poisoned(6, [70], kv_heads=1)
    q = torch.full((1, 1, 8), 2.0**66)  # powers of two: the scores are equal in any order of summing
    slots = slot_mapping(case.sequences[0], 0, 70, 16)
    case.cache.pool.keys[0].flatten(0, 1)[slots] = -(2.0**40)
    case.k[0][:] = -(2.0**40)
    want = dense_reference(q, case.k[0], case.v[0])
    for backend in BACKENDS:
        got = paged_attention(q, case.cache, 0, case.tables(), case.lens(), backend)
        assert torch.allclose(got.double(), want, atol=1e-5), backend


def test_a_query_over_quantised_blocks_shows_it_too():
    case = Poisoned(7, [130], kv_heads=2)
    case.cache.pool.attach(QuantisedBlocks(case.cache.pool, 8, 8))
    assert quantise_filled(case.cache, case.sequences[0]) == 8
    q = case.normal(1, 4, 8)
    q[0, 2, 0] = NAN
    got = paged_attention(q, case.cache, 0, case.tables(), case.lens())
    assert got.isnan().all(-1).tolist() == [[False, False, True, False]]


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_nothing_that_is_not_finite_is_written_or_compressed(dtype, value):
    case = Poisoned(8, [64], dtype=dtype)
    cache, fresh = case.cache, Sequence()
    k = torch.zeros(1, 2, 8, dtype=dtype)
    bad = k.clone()
    bad[0, 1, 3] = value
    slots = cache.extend(fresh, 1)
    for pair in ((bad, k), (k, bad)):
        with pytest.raises(CacheError, match="holds NaN or infinity; nothing is written"):
            cache.write(0, slots, *pair)
    with pytest.raises(QuantError, match="repair NaN and infinities"):
        quantise(bad, 8, 0)
    cache.pool.attach(QuantisedBlocks(cache.pool, 8, 8))
    cache.pool.values[0][case.sequences[0].blocks[2], 5, 1, 3] = value
    with pytest.raises(QuantError, match="repair NaN and infinities"):
        quantise_filled(cache, case.sequences[0])
    assert cache.pool.stored == 0


def test_the_interface_of_the_seed_project_shows_it():
    allocator = BlockAllocator(4, 4, 8)
    layer, cache = PagedAttention(8, 2, 4), PagedKVCache(4, 8, allocator)
    layer.append(torch.rand(5, 8), cache)
    query = torch.rand(1, 1, 8)
    query[0, 0, 0] = NAN
    assert layer.forward_paged(query, cache).isnan().all()


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize(
    "act",
    [
        lambda model, cache: greedy(model, cache, [1, 2], 3),
        lambda model, cache: sample(model, cache, [1, 2], 2, 3, 0),
        lambda model, cache: beam(model, cache, [1, 2], 2, 3),
    ],
    ids=["greedy", "sample", "beam"],
)
def test_no_token_is_chosen_from_logits_that_are_not_finite(act, value):
    model = decoder(0)
    model.weights["model.norm.weight"][3] = value  # behind every key and value
    cache = model.new_cache(20, 4)
    with pytest.raises(RequestError, match=r"logits in torch\.float32 hold NaN or infinity.*; compute in"):
        act(model, cache)
    cache.check()
    assert cache.pool.used == 0


def test_a_scheduler_names_the_request_with_such_logits():
    model = decoder(0)
    model.weights["model.norm.weight"][3] = NAN
    scheduler = Scheduler(model, model.new_cache(20, 4))
    request = scheduler.add([1, 2], 3)
    with pytest.raises(RequestError, match="hold NaN or infinity") as refused:
        scheduler.step()
    assert refused.value.__notes__ == ["request 0 cannot be computed; mend the cause, or cancel it"]
    scheduler.check()
    scheduler.cancel(request)
    scheduler.clear()
    assert scheduler.cache.pool.used == 0


def test_public_gives_no_nan_for_rows_without_a_score():
    k = torch.ones(1, 1, 3, 8)
    out, lse = public(torch.full((1, 1, 1, 8), -INF), k, k, None, False)
    assert torch.equal(out, torch.zeros(1, 1, 1, 8)) and torch.equal(lse, torch.full((1, 1, 1), -INF))

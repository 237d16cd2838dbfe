"""The GPU kernel, in Triton's interpreter without a GPU: the same answers as dense float64."""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from poisoned import Poisoned

from kv_cache_rl.paged.attention import AttentionError, dense_reference, paged_attention
from kv_cache_rl.paged.kernels import TRITON

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ.setdefault(
        "TRITON_INTERPRET", "1"
    )  # while tests are collected: before any runs that imports triton

needs_triton = pytest.mark.skipif(
    not TRITON, reason="triton is not installed: the kernel cannot even be interpreted"
)


def worst(case, q, splits=None):
    from kv_cache_rl.paged.triton_decode import paged_decode

    pool = case.cache.pool
    got = paged_decode(q, pool.keys[0], pool.values[0], case.tables(), case.lens().to(DEVICE), splits)
    want = torch.stack([dense_reference(q[i : i + 1], case.k[i], case.v[i])[0] for i in range(len(q))])
    return float((got.double() - want).abs().nan_to_num(torch.inf).max())


@needs_triton
@given(
    seed=st.integers(0, 2**20),
    lens=st.lists(st.integers(1, 150), min_size=1, max_size=3),
    block=st.sampled_from([1, 3, 8, 16, 32]),
    kv_heads=st.integers(1, 2),
    groups=st.sampled_from([1, 3, 4, 8]),
    dim=st.sampled_from([8, 24, 64]),
    shared=st.integers(0, 40),
    splits=st.sampled_from([None, 1, 2, 5]),
)
@settings(max_examples=25, deadline=None)
def test_the_kernel_equals_dense_float64(seed, lens, block, kv_heads, groups, dim, shared, splits):
    case = Poisoned(seed, lens, block, kv_heads, dim, shared=shared, device=DEVICE)
    assert worst(case, case.normal(len(lens), kv_heads * groups, dim), splits) < 1e-5


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("splits", [1, 3])
def test_sixteen_bit_products_with_the_rounding_carried_along_are_exact_to_their_format(splits, dtype):
    case = Poisoned(1, [130, 65, 3], 16, 2, 64, dtype, device=DEVICE)
    exact = case.normal(3, 8, 64)
    assert worst(case, exact, splits) < 1e-5  # float32 queries: computed with in float32
    q = exact.to(dtype)
    got = paged_attention(q, case.cache, 0, case.tables(), case.lens(), "triton")
    want = torch.stack([dense_reference(q[i : i + 1], case.k[i], case.v[i])[0] for i in range(3)])
    assert got.dtype == dtype
    # Half a unit in the last place of the answer, and what float32 sums lose.
    assert torch.allclose(got.double(), want, atol=1e-5, rtol=torch.finfo(dtype).eps / 2)


@needs_triton
def test_the_backend_gives_what_the_others_give():
    case = Poisoned(2, [70, 1, 33], 16, 2, 16, device=DEVICE)
    q = case.normal(3, 4, 16)
    given = (q, case.cache, 0, case.tables(), case.lens())
    assert torch.allclose(paged_attention(*given, "triton"), paged_attention(*given, "public"), atol=1e-5)


@needs_triton
def test_the_backend_refuses_a_pool_with_quantised_blocks(monkeypatch):
    case = Poisoned(3, [70])
    monkeypatch.setattr(type(case.cache.pool), "stored", 4)
    with pytest.raises(
        AttentionError, match="the pool has quantised blocks, which it cannot read; use 'auto'"
    ):
        paged_attention(case.normal(1, 4, 8), case.cache, 0, case.tables(), case.lens(), "triton")


def test_without_triton_the_backend_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("kv_cache_rl.paged.kernels.TRITON", False)
    case = Poisoned(4, [70])
    with pytest.raises(AttentionError, match="triton is not installed; pip install triton, or use 'auto'"):
        paged_attention(case.normal(1, 4, 8), case.cache, 0, case.tables(), case.lens(), "triton")

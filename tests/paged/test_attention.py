"""Paged attention equals dense attention for all blocks; slots without an owner hold NaN."""

import math
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from poisoned import Poisoned

from kv_cache_rl.paged import gather
from kv_cache_rl.paged.attention import (
    AttentionError,
    dense_reference,
    merge_states,
    paged_attention,
    paged_prefill,
)
from kv_cache_rl.paged.block_pool import BlockPool
from kv_cache_rl.paged.gather import Workspace
from kv_cache_rl.paged.sequences import Sequence

EXACT = 1e-5


def expected(case, q):
    return torch.stack([dense_reference(q[i : i + 1], case.k[i], case.v[i])[0] for i in range(len(q))])


def furthest(got, want):
    """The largest difference; NaN counts as infinitely far."""
    return float((got.double() - want).abs().nan_to_num(math.inf).max())


@pytest.mark.parametrize("backend", ["flash", "public"])
@pytest.mark.parametrize("block", range(1, 33))
def test_decode_equals_dense_float64_for_every_block_size(block, backend):
    case = Poisoned(block, [1, 2, block, block + 1, 31, 65, 100, 530], block=block)
    q = case.normal(8, 6, 8)
    got = paged_attention(q, case.cache, 0, case.tables(), case.lens(), backend)
    assert furthest(got, expected(case, q)) < EXACT


@given(
    seed=st.integers(0, 2**20),
    lens=st.lists(st.integers(1, 70), min_size=1, max_size=6),
    block=st.integers(1, 32),
    kv_heads=st.integers(1, 4),
    groups=st.sampled_from([1, 2, 3, 4, 7, 8]),
    dim=st.sampled_from([1, 4, 8, 33, 64]),
    shared=st.integers(0, 40),
    chunk=st.sampled_from([1, 16, 48, 512]),
    kilobytes=st.sampled_from([1, 8, 64, 4096]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    backend=st.sampled_from(["flash", "public"]),
)
@settings(max_examples=250, deadline=None)
def test_decode_equals_dense_float64_for_ragged_shared_and_permuted_tables(
    seed, lens, block, kv_heads, groups, dim, shared, chunk, kilobytes, dtype, backend
):
    case = Poisoned(seed, lens, block, kv_heads, dim, dtype, shared)
    q = case.normal(len(lens), kv_heads * groups, dim).to(
        torch.float64 if dtype == torch.float64 else torch.float32
    )
    with mock.patch.multiple(gather, CHUNK_TOKENS=chunk, WORKSPACE_BYTES=1024 * kilobytes, STAGED_TOKENS=32):
        got = paged_attention(q, case.cache, 0, case.tables(), case.lens(), backend)
    assert got.dtype == q.dtype
    assert furthest(got, expected(case, q)) < EXACT
    case.cache.check()


@given(
    seed=st.integers(0, 2**20),
    length=st.integers(1, 90),
    ahead=st.integers(0, 60),
    block=st.integers(1, 32),
    kv_heads=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 3, 8]),
    chunk=st.sampled_from([1, 16, 48, 512]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
@settings(max_examples=150, deadline=None)
def test_a_prefill_chunk_equals_dense_causal_attention_from_its_place(
    seed, length, ahead, block, kv_heads, groups, chunk, dtype
):
    case = Poisoned(seed, [length, 5], block, kv_heads, 8, dtype, shared=ahead)
    q = case.normal(length, kv_heads * groups, 8)
    with mock.patch.multiple(gather, CHUNK_TOKENS=chunk):
        got = paged_prefill(q, case.cache, 0, case.sequences[0], ahead)
    assert furthest(got, dense_reference(q, case.k[0], case.v[0], causal_from=ahead)) < EXACT


def test_a_prompt_prefilled_at_once_or_in_chunks_or_decoded_gives_the_same():
    case = Poisoned(3, [1100], block=16, kv_heads=2, dim=16)
    q = case.normal(1100, 4, 16)
    whole = paged_prefill(q, case.cache, 0, case.sequences[0], 0)
    for cut in (1, 15, 512, 600, 1099):
        assert (
            furthest(paged_prefill(q[cut:], case.cache, 0, case.sequences[0], cut), whole[cut:].double())
            < EXACT
        )
    table = case.tables().expand(1100, -1)
    decoded = paged_attention(q, case.cache, 0, table, torch.arange(1, 1101))
    assert furthest(decoded, whole.double()) < EXACT


def test_sixteen_bit_queries_are_computed_with_in_float32_and_answered_in_sixteen_bits():
    case = Poisoned(5, [40, 700], dtype=torch.bfloat16)
    q = case.normal(2, 4, 8).bfloat16()
    got = paged_attention(q, case.cache, 0, case.tables(), case.lens())
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, expected(case, q).float().bfloat16())


def test_tails_of_tables_may_hold_any_number():
    case = Poisoned(6, [10, 300])
    q, tables = case.normal(2, 4, 8), case.tables()
    tables[0, 1:] = torch.tensor([-1, 10**9])[torch.arange(tables.shape[1] - 1) % 2]
    assert furthest(paged_attention(q, case.cache, 0, tables, case.lens()), expected(case, q)) < EXACT


def test_a_nan_in_a_block_that_is_read_does_show():
    """The tests above would mean nothing if poison went unnoticed."""
    case = Poisoned(7, [10, 300])
    q, tables = case.normal(2, 4, 8), case.tables()
    assert paged_attention(q, case.cache, 0, tables, case.lens() + torch.tensor([1, 0])).isnan().any(-1).all(
        -1
    ).tolist() == [
        True,
        False,
    ]


@given(
    seed=st.integers(0, 2**20),
    chunks=st.integers(1, 5),
    empty=st.integers(0, 4),
    size=st.floats(0.1, 60),
)
@settings(max_examples=150, deadline=None)
def test_merging_the_parts_of_a_softmax_gives_the_whole(seed, chunks, empty, size):
    rng = torch.Generator().manual_seed(seed)
    scores, v = (
        size * torch.randn(chunks, 7, 3, generator=rng).double(),
        torch.randn(chunks, 7, 3, 4, generator=rng).double(),
    )
    outputs = torch.stack([(s.softmax(0).unsqueeze(-1) * x).sum(0) for s, x in zip(scores, v, strict=True)])
    lses = scores.logsumexp(1)
    if chunks > 1:
        # A part without tokens counts for nothing.
        outputs[empty % chunks], lses[empty % chunks] = 0.0, -math.inf
        scores[empty % chunks] = -math.inf
    flat, values = scores.flatten(0, 1), v.flatten(0, 1)
    out, lse = merge_states(outputs, lses)
    assert torch.allclose(out, (flat.softmax(0).unsqueeze(-1) * values).sum(0), atol=1e-12)
    assert torch.allclose(lse, flat.logsumexp(0), atol=1e-12)
    if chunks > 2:
        one, two = merge_states(outputs[:2], lses[:2]), merge_states(outputs[2:], lses[2:])
        again = merge_states(torch.stack((one[0], two[0])), torch.stack((one[1], two[1])))
        assert torch.allclose(again[0], out, atol=1e-12) and torch.allclose(again[1], lse, atol=1e-12)


def test_merging_nothing_with_nothing_is_nothing():
    out, lse = merge_states(torch.zeros(2, 3, 4), torch.full((2, 3), -math.inf))
    assert torch.equal(out, torch.zeros(3, 4)) and torch.equal(lse, torch.full((3,), -math.inf))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("block", "kv_heads", "dim"), [(16, 8, 128), (1, 8, 128), (32, 1, 64), (7, 32, 128), (16, 2, 32)]
)
def test_the_workspace_stays_within_four_mebibytes_and_512_tokens(block, kv_heads, dim, dtype):
    pool = BlockPool(1, 2, block, kv_heads, dim, dtype)
    gather._workspaces.__dict__.clear()
    workspace = Workspace(pool, torch.float32)
    (buffer,) = gather._workspaces.buffers.values()
    assert buffer.nbytes == 4 * 2**20
    assert workspace.chunk <= 512 and workspace.chunk % block == 0
    Workspace(BlockPool(1, 2, 3, 2, 8), torch.float32)
    assert len(gather._workspaces.buffers) == 1 and next(iter(gather._workspaces.buffers.values())) is buffer


@given(
    lens=st.lists(st.integers(1, 3000), min_size=1, max_size=20),
    block=st.integers(1, 32),
    kv_heads=st.sampled_from([1, 8, 32]),
)
@settings(max_examples=100, deadline=None)
def test_tiles_cover_every_token_once_and_fit(lens, block, kv_heads):
    workspace, lens = (
        Workspace(BlockPool(1, 1, block, kv_heads, 128), torch.float32),
        sorted(lens, reverse=True),
    )
    seen = [0] * len(lens)
    for tile in workspace.tiles(lens):
        assert (tile.end - tile.begin) * -(
            -tile.tokens // block
        ) <= workspace.blocks and tile.first % workspace.chunk == 0
        here = [min(lens[i] - tile.first, workspace.chunk) for i in range(tile.begin, tile.end)]
        assert max(here) == tile.tokens and tile.ragged == (min(here) < max(here))
        for i, tokens in zip(range(tile.begin, tile.end), here, strict=True):
            assert seen[i] == tile.first
            seen[i] += tokens
    assert seen == lens


@pytest.mark.parametrize("change", ["lens", "tables"])
def test_a_step_planned_for_one_layer_is_planned_anew_when_a_tensor_changed_in_place(change):
    case = Poisoned(11, [40, 64, 30])
    q, tables, lens = case.normal(3, 4, 8), case.tables(), case.lens()
    once = paged_attention(q, case.cache, 0, tables, lens)
    assert torch.equal(paged_attention(q, case.cache, 0, tables, lens), once)
    if change == "lens":
        lens[1], case.k[1], case.v[1] = 20, case.k[1][:20], case.v[1][:20]
    else:
        tables[0, :3], case.k[0], case.v[0] = tables[1, :3].clone(), case.k[1][:40], case.v[1][:40]
    again = paged_attention(q, case.cache, 0, tables, lens)
    assert furthest(again, expected(case, q)) < EXACT and not torch.allclose(again, once, atol=1e-3)
    lens[2] = 1000
    with pytest.raises(AttentionError, match="lengths run from"):
        paged_attention(q, case.cache, 0, tables, lens)


def test_a_step_under_inference_mode_is_never_taken_for_the_one_before():
    case = Poisoned(12, [40, 64])
    with torch.inference_mode():
        q, tables, lens = case.normal(2, 4, 8), case.tables(), case.lens()
        assert furthest(paged_attention(q, case.cache, 0, tables, lens), expected(case, q)) < EXACT
        lens[1], case.k[1], case.v[1] = 20, case.k[1][:20], case.v[1][:20]
        assert furthest(paged_attention(q, case.cache, 0, tables, lens), expected(case, q)) < EXACT


def bad(case, **changes):
    """paged_attention with one thing wrong."""
    given = {
        "q": case.normal(2, 4, 8),
        "layer": 0,
        "tables": case.tables(),
        "lens": case.lens(),
        "backend": "auto",
    } | changes
    return paged_attention(
        given["q"], case.cache, given["layer"], given["tables"], given["lens"], given["backend"]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            lambda c: {"q": c.normal(2, 3, 8)},
            "3 query heads over 2 key heads; the first must be a multiple of the second",
        ),
        (
            lambda c: {"q": c.normal(2, 4, 6)},
            r"q has shape \[2, 4, 6\]; the cache takes \[queries, heads, 8\]",
        ),
        (
            lambda c: {"q": c.normal(2, 4, 8).half()},
            "q is torch.float16, the cache holds torch.float32; convert q",
        ),
        (lambda c: {"layer": 1}, "layer 1 of a cache with layers 0 to 0"),
        (
            lambda c: {"lens": torch.tensor([10, 49])},
            r"lengths run from 10 to 49; the table has room for 1 to 48 \(3 blocks of 16\)",
        ),
        (lambda c: {"lens": torch.tensor([0, 5])}, "lengths run from 0 to 5; the table has room for 1 to 48"),
        (
            lambda c: {"lens": torch.tensor([5])},
            r"2 queries, tables of shape \[2, 3\], lengths of shape \[1\]",
        ),
        (lambda c: {"lens": torch.tensor([5.0, 5.0])}, "both are whole numbers"),
        (
            lambda c: {"tables": torch.tensor([[999, 0, 0], [1, 1, 1]])},
            "tables name blocks 1 to 999; the pool has blocks 0 to",
        ),
        (lambda c: {"tables": torch.tensor([[-1, 0, 0], [1, 1, 1]])}, "tables name blocks -1 to"),
        (lambda c: {"backend": "cuda"}, "no backend 'cuda'; there are auto, flash, public, triton"),
    ],
    ids=[
        "heads",
        "dim",
        "dtype",
        "layer",
        "beyond",
        "nothing",
        "count",
        "floats",
        "unknown block",
        "negative block",
        "backend",
    ],
)
def test_queries_tables_and_lengths_that_do_not_fit_are_refused(changes, message):
    case = Poisoned(8, [10, 30])
    with pytest.raises(AttentionError, match=message):
        bad(case, **changes(case))
    case.cache.check()


def test_prefill_beyond_what_is_written_is_refused():
    case = Poisoned(9, [10])
    with pytest.raises(
        AttentionError,
        match=r"queries at positions 8 to 11 of sequence \d+: its keys end at 10; extend and write",
    ):
        paged_prefill(case.normal(3, 2, 8), case.cache, 0, case.sequences[0], 8)
    with pytest.raises(AttentionError, match="keys end at 0"):
        paged_prefill(case.normal(1, 2, 8), case.cache, 0, Sequence(), 0)


def test_a_step_without_sequences_is_empty():
    case = Poisoned(10, [10])
    got = paged_attention(
        case.normal(0, 4, 8),
        case.cache,
        0,
        torch.zeros(0, 3, dtype=torch.int32),
        torch.zeros(0, dtype=torch.int64),
    )
    assert got.shape == (0, 4, 8)

"""Quantised tensors and blocks: how far off they are, what they weigh, and that no holder is left behind."""

import pytest
import torch
from decoders import decoder, prompt
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_cache_rl.paged.block_pool import STORE, BlockPool, PoolError
from kv_cache_rl.paged.kv_cache import CacheError, KVCache
from kv_cache_rl.paged.quant import BITS, QuantError, dequantise, pack, quantise, unpack
from kv_cache_rl.paged.quantised_blocks import QuantisedBlocks, quantise_blocks, quantise_filled
from kv_cache_rl.paged.sequences import Sequence

LAYERS, HEADS, DIM = 2, 2, 64


def scales_of(packed):
    """The scale of every value."""
    return packed.scale.double().repeat_interleave(packed.group, packed.axis)


def values(seed, *shape):
    """Normal keys with a few channels that are large throughout, as in KIVI's figures."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    return x * (1 + 20 * (torch.rand(shape[-1], generator=generator) > 0.9)) + 3 * torch.randn(
        shape[-1], generator=generator
    )


@given(
    seed=st.integers(0, 10_000),
    bits=st.sampled_from(list(BITS.values())),
    axis=st.sampled_from([0, 1, 2, -1]),
    power=st.integers(-16, 7),
    flat=st.booleans(),
)
@settings(deadline=None)
def test_no_value_is_further_off_than_half_a_scale(seed, bits, axis, power, flat):
    x = values(seed, 16, 8, 32) * 2.0**power
    if flat:
        x[:, 0] = x[0, 0, 0]
    packed = quantise(x, bits, axis, 8)
    off = (x.double() - dequantise(packed, torch.float64)).abs()
    # The code was chosen in 32 bits: their rounding adds some 2^-22 of the range and of the value.
    room = scales_of(packed) * (0.5 + 2.0**bits * 2.0**-22) + x.double().abs() * 2.0**-22
    assert bool((off <= room).all())


@pytest.mark.parametrize("axis", [0, 2])
def test_the_error_is_proportional_to_one_over_the_number_of_steps(axis):
    x = torch.rand(256, 4, 256, generator=torch.Generator().manual_seed(0))
    errors = {
        bits: (x - dequantise(quantise(x, bits, axis))).abs().mean().item() * (2**bits - 1)
        for bits in (8, 4, 2)
    }
    assert errors[4] == pytest.approx(errors[8], rel=0.02)
    assert errors[2] == pytest.approx(errors[8], rel=0.02)


@given(bits=st.sampled_from(list(BITS.values())), seed=st.integers(0, 1000))
@settings(deadline=None)
def test_packing_is_undone_by_unpacking(bits, seed):
    codes = torch.randint(0, 2**bits, (3, 5, 16), generator=torch.Generator().manual_seed(seed)).to(
        torch.uint8
    )
    packed = pack(codes, bits)
    assert packed.nbytes * 8 == codes.numel() * bits
    assert torch.equal(unpack(packed, bits), codes)


def test_a_group_of_16_tokens_costs_what_kivi_with_small_groups_costs_and_64_tokens_cost_less():
    x = values(0, 64, 8, 128)
    for bits, low, high in ((8, 0.57, 0.59), (4, 0.32, 0.34), (2, 0.195, 0.22)):
        small = (quantise(x, bits, 0, 16).nbytes + quantise(x, bits, 2).nbytes) / (4 * x.numel())
        assert low <= small <= high
        wide = (quantise(x, bits, 0, 64).nbytes + quantise(x, bits, 2).nbytes) / (4 * x.numel())
        assert wide == pytest.approx(bits / 16 + (2 / 64 + 2 / 128) / 2)


@pytest.mark.parametrize(
    ("x", "bits", "group", "words"),
    [
        (torch.ones(4, 8), 3, None, "3 bits are no scheme; use one of 8 (int8), 4 (int4), 2 (int2)"),
        (torch.ones(4, 8), 4, 3, "4 along axis 0 are not whole groups of 3"),
        (torch.ones(4, 7), 4, None, "must be a multiple of 2"),
        (torch.ones(4, 8, dtype=torch.int32), 4, None, "torch.int32 is not quantised"),
        (torch.full((4, 8), float("nan")), 4, None, "the largest value to quantise is nan"),
        (torch.full((4, 8), -float("inf")), 4, None, "the largest value to quantise is inf"),
        (torch.full((4, 8), 1e5), 8, None, "leave the block exact"),
    ],
)
def test_what_cannot_be_quantised_is_refused(x, bits, group, words):
    with pytest.raises(QuantError) as refused:
        quantise(x, bits, 0, group)
    assert words in str(refused.value)


def filled(bits=4, tokens=200, block_tokens=16, rows=32, blocks=64, seed=0):
    """A cache with one sequence of random K/V, its store, and the K/V [layers, tokens, heads, dim]."""
    pool = BlockPool(LAYERS, blocks, block_tokens, HEADS, DIM)
    pool.attach(QuantisedBlocks(pool, rows, bits))
    cache, sequence = KVCache(pool), Sequence()
    k, v = values(seed, LAYERS, tokens, HEADS, DIM), values(seed + 1, LAYERS, tokens, HEADS, DIM)
    slots = cache.extend(sequence, tokens)
    for layer in range(LAYERS):
        cache.write(layer, slots, k[layer], v[layer])
    return cache, sequence, k, v


def read(cache, sequence, layer):
    """Keys and values of a sequence, through the gather that attention uses."""
    pool = cache.pool
    shape = (len(sequence.blocks), pool.block_tokens, HEADS, DIM)
    k, v = torch.empty(shape), torch.empty(shape)
    pool.gather(layer, torch.tensor(sequence.blocks), k, v)
    return k.flatten(0, 1)[: sequence.length], v.flatten(0, 1)[: sequence.length]


@pytest.mark.parametrize("bits", BITS.values(), ids=BITS)
@pytest.mark.parametrize("block_tokens", [1, 16, 64, 128])
def test_full_groups_are_quantised_and_the_current_one_stays_exact(bits, block_tokens):
    cache, sequence, k, v = filled(bits, tokens=330, block_tokens=block_tokens, rows=640, blocks=640)
    span = max(64, block_tokens)
    done = quantise_filled(cache, sequence)
    cache.check()
    whole = 330 // span * span
    assert done * block_tokens == whole == cache.pool.stored * block_tokens
    for layer in range(LAYERS):
        got_k, got_v = read(cache, sequence, layer)
        assert torch.equal(got_k[whole:], k[layer, whole:]) and torch.equal(got_v[whole:], v[layer, whole:])
        for start in range(0, whole, span):
            part = slice(start, start + span)
            assert torch.equal(got_k[part], dequantise(quantise(k[layer, part], bits, 0)))
        assert torch.equal(got_v[:whole], dequantise(quantise(v[layer, :whole], bits, -1)))
    assert quantise_filled(cache, sequence) == 0


@pytest.mark.parametrize("bits", BITS.values(), ids=BITS)
def test_bytes_reported_are_the_bytes_of_the_tensors(bits):
    cache, _, *_ = filled(bits)
    store, pool = cache.pool.store, cache.pool
    held = sum(value.nbytes for value in vars(store).values() if isinstance(value, torch.Tensor))
    held += sum(
        t.nbytes
        for value in vars(store).values()
        if isinstance(value, list)
        for t in value
        if isinstance(t, torch.Tensor)
    )
    assert store.nbytes == held
    assert pool.nbytes == held + sum(t.nbytes for t in (*pool.keys, *pool.values))
    fp16 = 2 * 2 * LAYERS * store.blocks * pool.block_tokens * HEADS * DIM
    assert store.nbytes / fp16 == pytest.approx(bits / 16 + 2 / 64, rel=0.01)


def test_a_shared_block_is_quantised_for_all_its_holders():
    cache, parent, k, _ = filled(tokens=200)
    child = cache.fork(parent)
    cache.extend(child, 5)
    assert quantise_filled(cache, parent) == 12
    assert child.blocks[:12] == parent.blocks[:12] and min(child.blocks[:12]) >= cache.pool.blocks
    assert cache.pool.references(child.blocks[0]) == 2
    cache.check()
    assert torch.equal(read(cache, parent, 0)[0][:192], read(cache, child, 0)[0][:192])
    cache.release(parent)
    assert torch.equal(read(cache, child, 0)[0][:64], dequantise(quantise(k[0, :64], 4, 0)))
    cache.release(child)
    cache.check()
    assert cache.pool.used == cache.pool.stored == 0


def test_where_a_fork_split_a_group_the_shared_part_is_quantised_once_and_the_other_side_stays_exact():
    cache, parent, _, _ = filled(tokens=100)
    child = cache.fork(parent)
    for sequence in (parent, child):
        slots = cache.extend(sequence, 60)
        for layer in range(LAYERS):
            cache.write(layer, slots, values(9, 60, HEADS, DIM), values(10, 60, HEADS, DIM))
    before = read(cache, child, 1)[0]
    assert quantise_filled(cache, parent) == 8
    assert quantise_filled(cache, child) == 0
    cache.check()
    after = read(cache, child, 1)[0]
    assert not torch.equal(after[:96], before[:96])
    assert torch.equal(after[96:], before[96:])


def test_a_block_that_is_held_outside_the_cache_is_refused_whole():
    cache, sequence, k, _ = filled()
    cache.pool.share(sequence.blocks[2])
    with pytest.raises(CacheError, match="refused for all holders"):
        quantise_blocks(cache, sequence.blocks[:4])
    assert cache.pool.stored == 0 and max(sequence.blocks) < cache.pool.blocks
    assert torch.equal(read(cache, sequence, 0)[0], k[0])
    cache.pool.drop(sequence.blocks[2])
    cache.check()


def test_nothing_changes_where_values_cannot_be_quantised_or_the_store_is_full():
    cache, sequence, *_ = filled(rows=4)
    cache.pool.values[1][sequence.blocks[1]] = torch.nan
    with pytest.raises(QuantError, match="nan"):
        quantise_blocks(cache, sequence.blocks[:4])
    assert cache.pool.stored == 0
    cache.check()
    quantise_blocks(cache, sequence.blocks[4:8])
    with pytest.raises(QuantError, match="0 of 1 key scales are free, 1 are needed"):
        quantise_blocks(cache, sequence.blocks[8:12])
    for blocks in (sequence.blocks[4:8], [], sequence.blocks[:3] * 2):
        with pytest.raises(QuantError, match="exact blocks"):
            quantise_blocks(cache, blocks)
    assert quantise_filled(cache, sequence) == 0
    cache.check()


@pytest.mark.parametrize(
    "pick",
    [
        lambda b: [b[0], b[0], b[1], b[2]],
        lambda b: [b[0], b[1], b[2], b[3]] * 2,
        lambda b: [60, 61, 62, 63],
        lambda b: [-1, b[1], b[2], b[3]],
        lambda b: [b[3], b[1], b[2], b[0]],
        lambda b: [b[0], b[1], b[4], b[5]],
        lambda b: b[9:],
    ],
    ids=[
        "one twice",
        "a group twice",
        "free",
        "negative",
        "out of order",
        "with a gap",
        "the one being written",
    ],
)
def test_blocks_that_are_not_full_neighbours_in_use_are_refused(pick):
    cache, sequence, k, _ = filled()  # 200 tokens: the thirteenth block is being written
    with pytest.raises(QuantError, match=r"do not follow each other, full, in any sequence|give each once"):
        quantise_blocks(cache, pick(sequence.blocks))
    cache.check()
    assert cache.pool.stored == 0 and torch.equal(read(cache, sequence, 0)[0], k[0])


def test_a_sequence_of_another_cache_is_not_quantised():
    (cache, *_), (_, stranger, *_) = filled(), filled()
    with pytest.raises(CacheError, match="blocks of another cache"):
        quantise_filled(cache, stranger)
    assert cache.pool.stored == 0


def test_room_in_the_store_comes_back():
    cache, sequence, *_ = filled(rows=12)
    for _ in range(5):
        other = cache.fork(sequence)
        assert quantise_filled(cache, other) in (12, 0)
        with pytest.raises(PoolError):
            cache.pool.take(1, STORE)
        cache.release(sequence)
        cache.release(other)
        cache.check()
        sequence = Sequence()
        cache.write(0, cache.extend(sequence, 200), values(1, 200, HEADS, DIM), values(2, 200, HEADS, DIM))


def test_a_pool_without_a_store_says_how_to_get_one():
    cache = KVCache(BlockPool(1, 4, 16, 2, 8))
    with pytest.raises(QuantError, match=r"pool\.attach"):
        quantise_blocks(cache, [0])
    with pytest.raises(QuantError, match=r"pool\.attach"):
        quantise_filled(cache, Sequence())


def test_decoding_a_batch_of_which_one_cannot_grow_changes_none():
    model = decoder(head_dim=32)
    cache, sequences = model.new_cache(20, 16), [Sequence(), Sequence()]
    for sequence, length in zip(sequences, (9, 64), strict=True):
        model.prefill(cache, sequence, prompt(model, length))
    cache.pool.attach(QuantisedBlocks(cache.pool, 4, 8))
    assert quantise_filled(cache, sequences[1]) == 4
    sequences[1].length = 62  # as if its last block were being written
    del sequences[1].tokens[62:]
    with pytest.raises(CacheError, match="would write into block 23, which is quantised"):
        model.decode(cache, sequences, [1, 2])
    assert [sequence.length for sequence in sequences] == [9, 62]
    cache.check()

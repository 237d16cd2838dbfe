"""The pool and the cache over it: references to blocks, what a fork sees, refused requests."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_cache_rl.core.blocks import blocks_for, prefix_hashes
from kv_cache_rl.core.pool import LedgerError
from kv_cache_rl.paged.block_pool import BlockPool, PoolError
from kv_cache_rl.paged.kv_cache import CacheError, KVCache
from kv_cache_rl.paged.sequences import Sequence, block_table, lengths, slot_mapping

BLOCK = 4


def small_cache(blocks=12, block_tokens=BLOCK, layers=2, dtype=torch.float32):
    return KVCache(BlockPool(layers, blocks, block_tokens, kv_heads=2, head_dim=3, dtype=dtype))


def rows(first, count, dtype=torch.float32):
    """K or V [count, 2, 3]; the numbers say which token they are."""
    return (torch.arange(first, first + count, dtype=dtype)[:, None, None] + torch.zeros(2, 3)).to(dtype)


def add(cache, sequence, first, count):
    """Writes tokens numbered from `first` in every layer: keys are the number, values minus it."""
    slots = cache.extend(sequence, count)
    for layer in range(cache.pool.layers):
        cache.write(layer, slots, rows(first, count), -rows(first, count))


def read(cache, sequence, layer=0):
    """The token numbers that the cache holds for a sequence, from keys and from values."""
    slots = slot_mapping(sequence, 0, sequence.length, cache.pool.block_tokens)
    k, v = (x[layer].reshape(-1, 2, 3)[slots] for x in (cache.pool.keys, cache.pool.values))
    assert torch.equal(k, -v) and torch.equal(k, k[:, :1, :1].expand_as(k))
    return [int(x) for x in k[:, 0, 0]]


def test_taking_sharing_and_dropping_moves_blocks_between_free_and_used():
    pool = BlockPool(1, 5, BLOCK, 1, 2)
    a, b = pool.take(2)
    assert (pool.free, pool.used) == (3, 2) and pool.references(a) == 1
    pool.share(a)
    pool.drop(a)
    assert (pool.free, pool.used, pool.references(a)) == (3, 2, 1)
    pool.drop(a)
    pool.drop(b)
    assert (pool.free, pool.used, pool.references(a)) == (5, 0, 0)
    pool.check([])


def test_taking_is_all_or_nothing():
    pool = BlockPool(1, 3, BLOCK, 1, 2)
    pool.take(1)
    with pytest.raises(PoolError, match=r"3 exact blocks asked for, 2 of 3 are free; release or swap out"):
        pool.take(3)
    assert pool.free == 2
    pool.check()


def test_a_double_free_is_refused_by_name():
    pool = BlockPool(1, 3, BLOCK, 1, 2)
    (block,) = pool.take()
    pool.drop(block)
    with pytest.raises(PoolError, match=rf"block {block} is free already: .*double free"):
        pool.drop(block)
    with pytest.raises(PoolError, match="free and not published"):
        pool.share(block)
    with pytest.raises(PoolError, match="block 3 does not exist: the pool has blocks 0 to 2"):
        pool.drop(3)
    pool.check([])


@pytest.mark.parametrize("name", ["layers", "blocks", "block_tokens", "kv_heads", "head_dim"])
def test_a_pool_without_size_is_refused(name):
    sizes = {"layers": 1, "blocks": 2, "block_tokens": 4, "kv_heads": 1, "head_dim": 2, name: 0}
    with pytest.raises(PoolError, match=rf"{name} = 0: every size is at least 1"):
        BlockPool(**sizes)


def test_bytes_reported_are_the_bytes_of_the_tensors():
    pool = BlockPool(3, 7, 16, 2, 8, torch.bfloat16)
    tensors = sum(x.untyped_storage().nbytes() for x in (*pool.keys, *pool.values))
    assert pool.nbytes == tensors == 7 * pool.block_nbytes
    cache, sequence = KVCache(pool), Sequence()
    cache.extend(sequence, 17)
    cache.fork(sequence)
    assert cache.nbytes == 2 * pool.block_nbytes


def test_a_freed_published_block_is_found_until_it_is_needed_for_something_else():
    cache = small_cache(blocks=4)
    sequence = Sequence(tokens=list(range(10)))
    add(cache, sequence, 0, 10)
    cache.publish(sequence)
    cache.release(sequence)
    assert cache.pool.free == 4
    again = Sequence()
    assert cache.reuse(again, [*range(8), 99, 98, 97, 96]) == 8
    assert read(cache, again) == list(range(8)) and (cache.pool.free, cache.pool.evictions) == (2, 0)
    cache.release(again)
    cache.pool.take(4)
    assert cache.pool.evictions == 2
    assert all(cache.pool.lookup(chained) is None for chained in prefix_hashes(list(range(8)), BLOCK))
    cache.pool.check()


def test_the_tail_of_a_released_prompt_is_given_up_before_its_head():
    cache = small_cache(blocks=4)
    sequence = Sequence(tokens=list(range(16)))
    add(cache, sequence, 0, 16)
    cache.publish(sequence)
    cache.release(sequence)
    cache.pool.take(2)
    assert cache.reuse(Sequence(), list(range(16))) == 8


def test_books_that_were_tampered_with_raise():
    cache = small_cache()
    sequence = Sequence()
    add(cache, sequence, 0, 9)
    cache.check()
    sequence.blocks.append(sequence.blocks[0])
    with pytest.raises(LedgerError, match="1 references, tables hold it 2 times"):
        cache.check()
    sequence.blocks.pop()
    cache.pool._references[sequence.blocks[0]] = 0
    with pytest.raises(LedgerError, match="has 0 references and is not on the free list"):
        cache.check()


def test_a_table_is_padded_and_slots_follow_it():
    first, second = Sequence(blocks=[5, 2], length=7), Sequence(blocks=[3], length=1)
    table = block_table([first, second])
    assert table.tolist() == [[5, 2], [3, 0]] and table.dtype == torch.int32
    assert lengths([first, second]).tolist() == [7, 1]
    assert slot_mapping(first, 2, 7, BLOCK).tolist() == [22, 23, 8, 9, 10]
    with pytest.raises(
        ValueError, match=r"positions 0 to 9 of sequence \d+: its table has 2 blocks of 4; extend it first"
    ):
        slot_mapping(first, 0, 9, BLOCK)


def test_tokens_written_are_read_back_across_blocks_and_layers():
    cache = small_cache()
    sequence, other = Sequence(), Sequence()
    add(cache, sequence, 0, 3)
    add(cache, other, 100, 6)
    add(cache, sequence, 3, 7)
    for layer in range(2):
        assert read(cache, sequence, layer) == list(range(10))
        assert read(cache, other, layer) == list(range(100, 106))
    cache.check()


@given(
    prompt=st.integers(1, 40),
    output=st.integers(1, 20),
    n=st.integers(1, 6),
    block=st.sampled_from([1, 2, 3, 4, 7, 16]),
)
@settings(max_examples=120, deadline=None)
def test_samples_after_one_prompt_use_the_blocks_of_the_closed_form(prompt, output, n, block):
    cache = small_cache(blocks=6 * 60, block_tokens=block, layers=1)
    samples = [Sequence()]
    add(cache, samples[0], 0, prompt)
    samples += [cache.fork(samples[0]) for _ in range(n - 1)]
    for i, sample in enumerate(samples):
        for step in range(output):
            add(cache, sample, 1000 * (i + 1) + step, 1)
    assert cache.pool.used == n * blocks_for(prompt + output, block) - (n - 1) * (prompt // block)
    assert cache.copies == (n - 1 if prompt % block else 0)
    for i, sample in enumerate(samples):
        assert read(cache, sample) == [*range(prompt), *range(1000 * (i + 1), 1000 * (i + 1) + output)]
    cache.check()
    for sample in samples:
        cache.release(sample)
    assert cache.pool.free == cache.pool.blocks
    cache.check()


def test_appending_to_a_fork_leaves_its_sibling_alone():
    cache = small_cache()
    parent = Sequence()
    add(cache, parent, 0, 6)
    child = cache.fork(parent)
    add(cache, child, 50, 1)
    add(cache, parent, 60, 1)
    assert read(cache, parent) == [0, 1, 2, 3, 4, 5, 60]
    assert read(cache, child) == [0, 1, 2, 3, 4, 5, 50]
    assert cache.copies == 1 and parent.blocks[0] == child.blocks[0]


def test_an_extension_that_does_not_fit_changes_nothing():
    cache = small_cache(blocks=3)
    parent = Sequence()
    add(cache, parent, 0, 6)
    child = cache.fork(parent)
    before = list(child.blocks), child.length, cache.pool.free, cache.copies
    with pytest.raises(PoolError, match="2 exact blocks asked for, 1 of 3 are free"):
        cache.extend(child, 3)  # one new block, and a copy of the shared last one
    assert (list(child.blocks), child.length, cache.pool.free, cache.copies) == before
    with pytest.raises(CacheError, match="extended by -1 tokens"):
        cache.extend(child, -1)
    assert read(cache, parent) == read(cache, child) == list(range(6))
    cache.check()


def test_more_tokens_than_blocks_are_refused():
    cache = small_cache(blocks=3)
    with pytest.raises(PoolError, match="4 exact blocks asked for, 3 of 3 are free"):
        cache.extend(Sequence(), 13)
    assert cache.pool.free == 3
    cache.check()


def test_a_released_sequence_cannot_be_used_again():
    cache = small_cache()
    sequence = Sequence()
    add(cache, sequence, 0, 5)
    cache.release(sequence)
    for use in (cache.fork, cache.release, lambda s: cache.extend(s, 1)):
        with pytest.raises(
            CacheError, match=rf"sequence {sequence.id} was released: .*swap it in, or recompute it"
        ):
            use(sequence)
    cache.check()
    assert cache.pool.free == 12


@pytest.mark.parametrize(
    ("k", "message"),
    [
        (
            rows(0, 2, torch.float64),
            "k of layer 0 is torch.float64, the cache holds torch.float32; convert it first",
        ),
        (rows(0, 2).half(), "is torch.float16, the cache holds torch.float32"),
        (rows(0, 3), r"shape \[3, 2, 3\], not \[2, 2, 3\] \(slots, kv heads, head dim\)"),
        (torch.full((2, 2, 3), math.nan), "k of layer 0 holds NaN or infinity; nothing is written"),
        (torch.tensor([math.inf]).expand(2, 2, 3), "k of layer 0 holds NaN or infinity"),
        (torch.tensor([[[math.inf]], [[-math.inf]]]).expand(2, 2, 3), "k of layer 0 holds NaN or infinity"),
    ],
    ids=["float64", "float16", "shape", "nan", "inf", "inf-inf"],
)
def test_keys_that_do_not_belong_into_the_cache_are_refused_and_nothing_is_written(k, message):
    cache = small_cache()
    sequence = Sequence()
    add(cache, sequence, 0, 2)
    slots = slot_mapping(sequence, 0, 2, BLOCK)
    with pytest.raises(CacheError, match=message):
        cache.write(0, slots, k, rows(7, 2))
    with pytest.raises(CacheError, match=message.replace("k of", "v of")):
        cache.write(0, slots, rows(7, 2), k)
    with pytest.raises(CacheError, match="layer 2 of a cache with layers 0 to 1"):
        cache.write(2, slots, rows(7, 2), rows(7, 2))
    assert read(cache, sequence) == [0, 1]
    cache.check()


def test_large_finite_numbers_whose_sum_overflows_are_taken():
    cache = small_cache()
    slots = cache.extend(Sequence(), 2)
    big = torch.full((2, 2, 3), 3e38)
    cache.write(0, slots, big, big)
    assert torch.equal(cache.pool.keys[0].view(-1, 2, 3)[slots], big)


def test_a_block_that_another_sequence_holds_is_not_relabelled():
    cache = small_cache()
    sequence = Sequence()
    add(cache, sequence, 0, 8)
    old = sequence.blocks[0]
    cache.pool.share(old)
    (new,) = cache.pool.take()
    with pytest.raises(CacheError, match=rf"block {old} has 2 references, this cache's tables hold 1"):
        cache.relabel({old: new})
    cache.pool.drop(old)
    child = cache.fork(sequence)
    cache.pool.copy(old, new)
    cache.relabel({old: new})
    assert sequence.blocks[0] == child.blocks[0] == new and cache.pool.references(old) == 0
    assert read(cache, child) == list(range(8))
    cache.check()


def test_two_sequences_of_one_id_cannot_both_live():
    cache = small_cache()
    add(cache, Sequence(id=7_000_000), 0, 2)
    with pytest.raises(CacheError, match="another live sequence of this cache has the id 7000000"):
        cache.extend(Sequence(id=7_000_000), 2)
    cache.check()

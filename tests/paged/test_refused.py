"""Numbers that are none, blocks that are free and slots that are given twice are refused by name."""

import pytest
import torch
from decoders import decoder, prompt
from poisoned import Poisoned

from kv_cache_rl.core.errors import Refused
from kv_cache_rl.paged.attention import merge_states, paged_attention, paged_prefill
from kv_cache_rl.paged.block_pool import BlockPool, PoolError
from kv_cache_rl.paged.checkpoint import DecoderGeometry
from kv_cache_rl.paged.decoding import beam, greedy, sample
from kv_cache_rl.paged.drawing import drawn, generator_of
from kv_cache_rl.paged.kv_cache import CacheError, KVCache
from kv_cache_rl.paged.measure.calibrate import measure_costs
from kv_cache_rl.paged.model import Decoder
from kv_cache_rl.paged.quant import quantise
from kv_cache_rl.paged.quantised_blocks import QuantisedBlocks
from kv_cache_rl.paged.scheduler import Scheduler
from kv_cache_rl.paged.sequences import Sequence, block_table, lengths, slot_mapping
from kv_cache_rl.paged.swap import HostPool

ROWS = torch.ones(3, 1, 2)


def cache_of(blocks=6):
    return KVCache(BlockPool(1, blocks, 4, 1, 2))


NO_NUMBERS = (1.5, 2.0, "3", None, True, float("nan"), [2])
NUMBERS = {
    "pool": lambda m, n: BlockPool(1, n, 4, 1, 2),
    "layers": lambda m, n: BlockPool(n, 4, 4, 1, 2),
    "head dim": lambda m, n: BlockPool(1, 4, 4, 1, n),
    "cache": lambda m, n: m.new_cache(n),
    "block tokens": lambda m, n: m.new_cache(4, n),
    "take": lambda m, n: BlockPool(1, 4, 4, 1, 2).take(n),
    "references": lambda m, n: BlockPool(1, 4, 4, 1, 2).references(n),
    "extend": lambda m, n: cache_of().extend(Sequence(), n),
    "host": lambda m, n: HostPool(BlockPool(1, 4, 4, 1, 2), n),
    "store": lambda m, n: QuantisedBlocks(BlockPool(1, 4, 4, 1, 4), n, 8),
    "geometry": lambda m, n: DecoderGeometry("x", n, 2, 2, 8, 16, 16, 64),
    "untrained": lambda m, n: Decoder.untrained(m.geometry, n),
    "count": lambda m, n: greedy(m, m.new_cache(9), [1], n),
    "samples": lambda m, n: sample(m, m.new_cache(9), [1], n, 2, 0),
    "seed": lambda m, n: sample(m, m.new_cache(9), [1], 2, 2, n),
    "width": lambda m, n: beam(m, m.new_cache(9), [1], n, 2),
    "most": lambda m, n: Scheduler(m, m.new_cache(9)).add([1], n),
    "running": lambda m, n: Scheduler(m, m.new_cache(9), most_running=n),
    "prefill": lambda m, n: Scheduler(m, m.new_cache(9), prefill_tokens=n),
    "layer": lambda m, n: cache_of().check_write(n, 3, ROWS, ROWS),
}


@pytest.mark.parametrize("number", NO_NUMBERS, ids=repr)
@pytest.mark.parametrize("where", NUMBERS)
def test_what_is_no_whole_number_is_refused_by_name(where, number):
    with pytest.raises(Refused, match=r"; give a whole number"):
        NUMBERS[where](decoder(0), number)


@pytest.mark.parametrize("temperature", ["1", None, True, float("nan"), float("inf"), -1.0, [1.0]])
def test_a_temperature_that_is_none_is_refused(temperature):
    model = decoder(0)
    with pytest.raises(Refused, match="a temperature of"):
        sample(model, model.new_cache(9), [1], 2, 2, 0, temperature)
    with pytest.raises(Refused, match="a temperature of"):
        Scheduler(model, model.new_cache(9)).add([1], 2, seed=0, temperature=temperature)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 10**30])
def test_a_seed_beyond_64_bits_is_refused(seed):
    model = decoder(0)
    with pytest.raises(Refused, match=rf"{seed} as a seed; give a whole number from -9223372036854775808"):
        sample(model, model.new_cache(9), [1], 1, 2, seed)
    with pytest.raises(Refused, match="as a seed"):
        sample(model, model.new_cache(9), [1], 2, 2, 2**64 - 1)  # the second one's
    with pytest.raises(Refused, match="as a seed"):
        Scheduler(model, model.new_cache(9)).add([1], 2, seed=seed)


@pytest.mark.parametrize("tokens", ["abc", b"abc", None, 3, [[1, 2], [3]], [1.5], [True], [1, None], [2**70]])
def test_a_prompt_that_is_no_list_of_ids_is_refused(tokens):
    model = decoder(0)
    for act in (
        lambda: greedy(model, model.new_cache(9), tokens, 2),
        lambda: model.prefill(model.new_cache(9), Sequence(), tokens),
        lambda: Scheduler(model, model.new_cache(9)).add(tokens, 2),
    ):
        with pytest.raises(Refused, match=r"give token ids|use whole numbers from 0 to 39|give the ids"):
            act()


@pytest.mark.parametrize("temperature", [5e-324, 1e-320, 1e-300, 1e-9])
def test_the_lower_the_temperature_the_likelier_the_likeliest_token(temperature):
    for best in range(4):
        logits = torch.tensor([0.5, 0.25, -3.0, float("-inf")])
        logits[best] = 0.75
        generator = generator_of(best)
        assert {drawn(logits, generator, temperature) for _ in range(50)} == {best}
    model, start = decoder(3), prompt(decoder(3), 5)
    wanted = greedy(model, model.new_cache(9), start, 8)
    assert sample(model, model.new_cache(40), start, 3, 8, 0, temperature) == [wanted] * 3


def test_two_tokens_of_equal_logits_stay_equally_likely_at_any_temperature():
    generator = generator_of(0)
    tokens = [drawn(torch.tensor([2.0, 2.0, 1.0]), generator, 1e-320) for _ in range(400)]
    assert set(tokens) == {0, 1} and 140 < sum(tokens) < 260


def test_the_slots_of_a_free_block_are_not_written():
    cache, first, second = cache_of(), Sequence(), Sequence()
    slots = cache.extend(first, 3)
    cache.write(0, slots, ROWS, ROWS)
    cache.write(0, cache.extend(second, 3), ROWS, ROWS)
    cache.release(first)
    before = cache.pool.keys[0].clone()
    with pytest.raises(PoolError, match="block 0 is free: nothing is written to it; take it first"):
        cache.write(0, slots, 2 * ROWS, 2 * ROWS)
    assert torch.equal(cache.pool.keys[0], before)


def test_a_slot_takes_one_token():
    cache = cache_of()
    cache.extend(Sequence(), 3)
    with pytest.raises(CacheError, match="slot 1 is given 3 times; one slot takes one token"):
        cache.write(0, torch.tensor([1, 1, 1]), ROWS, ROWS)
    assert not cache.pool.keys[0].any()


def test_slots_that_changed_in_place_are_checked_again():
    cache = cache_of()
    slots = cache.extend(Sequence(), 3)
    cache.write(0, slots, ROWS, ROWS)
    slots[1] = slots[0]
    with pytest.raises(CacheError, match="given 2 times"):
        cache.write(0, slots, ROWS, ROWS)
    slots[1] = 20
    with pytest.raises(PoolError, match="block 5 is free"):
        cache.write(0, slots, ROWS, ROWS)


def test_a_free_block_is_not_read():
    case = Poisoned(1, [10, 30])
    q, tables, lens = case.normal(2, 4, 8), case.tables(), case.lens()
    paged_attention(q, case.cache, 0, tables, lens)
    freed = case.sequences[0].blocks[0]
    case.cache.release(case.sequences[0])
    for backend in ("auto", "public", "flash"):
        with pytest.raises(PoolError, match=f"block {freed} is free: its keys and values are no sequence's"):
            paged_attention(q, case.cache, 0, tables, lens, backend)
    alive = [case.sequences[1]]
    assert paged_attention(q[1:], case.cache, 0, block_table(alive), lengths(alive)).isfinite().all()


def test_a_pool_of_the_same_shape_is_another_pool():
    """The plan of the last step is not taken for one over a pool where the block is free."""
    case, other = Poisoned(2, [10]), Poisoned(2, [10])
    q, tables, lens = case.normal(1, 4, 8), case.tables(), case.lens()
    other.cache.release(other.sequences[0])
    for held in case.sequences[0].blocks:
        case.cache.pool.share(held)
    case.cache.pool.freed = other.cache.pool.freed
    paged_attention(q, case.cache, 0, tables, lens)
    with pytest.raises(PoolError, match="is free"):
        paged_attention(q, other.cache, 0, tables, lens)


def test_a_released_sequence_and_one_of_another_cache_are_not_prefilled():
    case, other = Poisoned(3, [10]), Poisoned(3, [10])
    q, mine = case.normal(2, 4, 8), case.sequences[0]
    with pytest.raises(CacheError, match="blocks of another cache"):
        paged_prefill(q, other.cache, 0, mine, 8)
    case.cache.release(mine)
    with pytest.raises(CacheError, match="was released"):
        paged_prefill(q, case.cache, 0, mine, 8)


def test_a_free_block_is_not_copied():
    pool = BlockPool(1, 4, 4, 1, 4)
    (held,) = pool.take()
    for pair in ((held, 3), (3, held)):
        with pytest.raises(PoolError, match="block 3 is free: it is neither copied nor written"):
            pool.copy(*pair)
    pool.attach(QuantisedBlocks(pool, 2, 8))
    (stored,) = pool.take(1, form=1)
    with pytest.raises(PoolError, match=f"block {stored} is quantised: copy exact blocks"):
        pool.copy(held, stored)


ODD = {
    "dtype": (lambda: BlockPool(1, 2, 4, 1, 2, dtype="float32"), "a pool of float32: keys and values are"),
    "device": (lambda: BlockPool(1, 2, 4, 1, 2, device="nowhere"), "device 'nowhere': torch has none"),
    "loaded on": (
        lambda: Decoder.load(device="nowhere"),
        "device 'nowhere': torch has none of this name; use",
    ),
    "cancelled": (lambda: Scheduler(decoder(0), decoder(0).new_cache(4)).cancel(None), "None is no request;"),
    "no device": (lambda: BlockPool(1, 2, 4, 1, 2, device=None), "device None: torch has none"),
    "format": (lambda: BlockPool(1, 2, 4, 1, 2).take(1, 7), r"blocks of format 7; give 0 \(exact\)"),
    "position": (lambda: slot_mapping(Sequence(), 0, 1.5, 4), "position 1.5 of sequence"),
    "adopted": (lambda: cache_of().adopt(Sequence(), [3], 2), "block 3 is free: sequence"),
    "unknown": (lambda: cache_of().adopt(Sequence(), [99], 2), "block 99 does not exist"),
    "slots": (lambda: cache_of().write(0, [0, 1, 2], ROWS, ROWS), "slots are a list; give int64"),
    "keys": (lambda: cache_of().check_write(0, 3, [1], ROWS), "k of layer 0 is a list; give a tensor"),
    "axis": (lambda: quantise(torch.ones(4, 4), 8, 2), r"shape \(4, 4\) has no axis 2"),
    "number": (lambda: greedy(decoder(0), cache_of(), torch.tensor(3), 5), "a prompt tensor"),
    "bool": (
        lambda: Scheduler(decoder(0), decoder(0).new_cache(4)).add([1], torch.tensor(True)),
        "whole number",
    ),
}


@pytest.mark.parametrize("what", ODD)
def test_odd_things_are_named_instead_of_an_error_of_torch(what):
    act, words = ODD[what]
    with pytest.raises(Refused, match=words):
        act()


def test_tables_that_are_lists_are_refused_after_a_step_as_before_one():
    case = Poisoned(4, [10])
    q, tables, lens = case.normal(1, 4, 8), case.tables(), case.lens()
    for _ in range(2):
        for pair in ((tables.tolist(), lens), (tables, lens.tolist())):
            with pytest.raises(Refused, match="; give tensors"):
                paged_attention(q, case.cache, 0, *pair)
        paged_attention(q, case.cache, 0, tables, lens)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_pool_on_a_gpu_that_is_not_there_is_refused_for_that():
    with pytest.raises(PoolError, match="device 'cuda': torch finds no GPU here; use cpu"):
        BlockPool(1, 2, 4, 1, 2, device="cuda")


def test_a_store_for_blocks_of_another_shape_is_refused_and_leaves_the_pool_as_it_was():
    pool = BlockPool(2, 4, 16, 2, 8)
    for other in ((1, 4, 16, 2, 8), (2, 4, 32, 2, 8), (2, 4, 16, 4, 8), (2, 4, 16, 2, 16)):
        with pytest.raises(PoolError, match="make the store for this pool"):
            pool.attach(QuantisedBlocks(BlockPool(*other), 4, 8))
    with pytest.raises(PoolError, match="None is no store; give QuantisedBlocks"):
        pool.attach(None)
    assert pool.store is None and pool.numbers == 4
    pool.attach(QuantisedBlocks(BlockPool(2, 9, 16, 2, 8), 4, 8))
    assert pool.numbers == 8


NO_VALUES = {
    "repeats": (lambda m: measure_costs(m, repeats=0), "repeats 0; give a whole number from 1 on"),
    "a fraction of repeats": (lambda m: measure_costs(m, repeats=1.5), "repeats 1.5; give a whole"),
    "no axis": (lambda m: quantise(torch.ones(4, 4), 8, None), "axis None; give a whole number"),
    "axis 1.0": (lambda m: quantise(torch.ones(4, 4), 8, 1.0), "axis 1.0; give a whole number"),
    "group 2.0": (lambda m: quantise(torch.ones(4, 4), 8, 1, 2.0), "groups of 2.0; give a whole number"),
    "group 0": (lambda m: quantise(torch.ones(4, 4), 8, 1, 0), "not whole groups of 0"),
    "a list": (lambda m: quantise([[1.0]], 8, 1), "is no tensor"),
    "chunks": (lambda m: merge_states(torch.ones(3, 2, 8), torch.ones(2, 2)), "give one log-sum-exp for"),
    "host": (lambda m: Scheduler(m, m.new_cache(9), host=3), "host 3; give a HostPool"),
    "model": (lambda m: Scheduler(3, m.new_cache(9)), "model 3; give a Decoder"),
    "cache": (lambda m: Scheduler(m, None), "cache None; give a KVCache"),
    "costs": (lambda m: Scheduler(m, m.new_cache(9), costs=1.0), "costs 1.0; give a PreemptionCosts"),
    "token -1": (
        lambda m: m.tokenizer.decode([-1]),
        "token -1 to decode; give whole numbers from 0 to 255",
    ),
    "token 256": (lambda m: m.tokenizer.decode([256]), "a token 256 to decode"),
    "token 1.5": (lambda m: m.tokenizer.decode([1.5]), "a token 1.5; give a whole number"),
    "half a pair": (lambda m: m.tokenizer.encode("a\udc80"), "at 1, which is no character"),
    "no text": (lambda m: m.tokenizer.encode(None), "None is no text; give a str"),
    "to text": (lambda m: m.to("bf16"), "'bf16' is no dtype .* give a floating torch.dtype"),
    "to a device": (lambda m: m.to("cuda"), "the device is an argument of its own"),
    "to integers": (lambda m: m.to(torch.int8), "give a floating torch.dtype"),
    "to nothing": (lambda m: m.to(None), "give a floating torch.dtype"),
    "loaded as text": (lambda m: Decoder.load(dtype="bf16"), "give a floating torch.dtype"),
    "untrained as text": (lambda m: Decoder.untrained(m.geometry, 0, "bf16"), "give a floating torch.dtype"),
    "a device of others": (lambda m: BlockPool(1, 4, 4, 1, 2, device="xpu"), "cannot use it here; use cpu"),
    "no device": (lambda m: BlockPool(1, 4, 4, 1, 2, device="meta"), "'meta' holds no values"),
    "fewer than none": (lambda m: BlockPool(1, 4, 4, 1, 2).take(-1), "-1 blocks .* from 0 on"),
}


@pytest.mark.parametrize("case", NO_VALUES)
def test_what_cannot_be_used_is_refused_in_words(case):
    act, words = NO_VALUES[case]
    with pytest.raises(Refused, match=words):
        act(decoder(0))


def test_every_bit_of_a_seed_counts_and_small_ones_are_torchs_own():
    def first(seed):
        return torch.rand(4, generator=generator_of(seed)).tolist()

    seeds = [0, 7, 2**32 - 1, 2**32, 2**32 + 7, 2**40, 2**63, 2**64 - 1, -1]
    found = [first(seed) for seed in seeds]
    same = [(a, b) for k, a in enumerate(seeds) for j, b in enumerate(seeds[:k]) if found[k] == found[j]]
    assert same == [(-1, 2**64 - 1)], "the same 64 bits"
    for seed, numbers in zip(seeds[:3], found, strict=False):
        assert torch.rand(4, generator=torch.Generator().manual_seed(seed)).tolist() == numbers

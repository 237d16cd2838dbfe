"""What paging promises, checked on the real model and on random tensors.

Each check has a number, and the limits that it must keep.
"""

import operator
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass

import torch
from torch import Tensor

from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.paged.attention import dense_reference, paged_attention
from kv_cache_rl.paged.block_pool import BlockPool
from kv_cache_rl.paged.decoding import beam, greedy, sample
from kv_cache_rl.paged.kv_cache import KVCache
from kv_cache_rl.paged.measure.memory import requests_like, usage
from kv_cache_rl.paged.measure.timing import seconds_of
from kv_cache_rl.paged.model import Decoder
from kv_cache_rl.paged.quant import BITS
from kv_cache_rl.paged.quantised_blocks import QuantisedBlocks, quantise_filled
from kv_cache_rl.paged.sequences import Sequence, block_table, lengths
from kv_cache_rl.paged.swap import HostPool, PreemptionCosts, recompute, swap_in, swap_out

Part = Callable[[Decoder, list[int], int], "list[Check]"]


@dataclass(frozen=True, slots=True)
class Check:
    """One promise: a measured number between two limits."""

    name: str
    value: float
    low: float
    high: float
    unit: str = ""
    remark: str = ""

    @property
    def passed(self) -> bool:
        """Whether the number is within its limits; NaN is not."""
        return self.low <= self.value <= self.high


def at_most(name: str, value: float, limit: float, unit: str = "", remark: str = "") -> Check:
    """A check from 0 up to a limit."""
    return Check(name, value, 0.0, limit, unit, remark)


def equals(name: str, value: float, wanted: float, unit: str = "", remark: str = "") -> Check:
    """A check for exactly that number."""
    return Check(name, value, wanted, wanted, unit, remark)


def correctness(model: Decoder, text: list[int], seed: int) -> list[Check]:
    """Paged attention against dense float64, and the model's tokens and logits against no cache."""
    worst = max(_random_error(block, groups, seed + block) for block in (1, 3, 16, 32) for groups in (1, 4))
    prompt, count = text[:100], 24
    cache = model.new_cache(blocks_for(len(prompt) + count, 16))
    paged = greedy(model, cache, prompt, count, ignore_eos=True)
    dense = _dense_greedy(model, prompt, count)
    sequence = Sequence()
    cache = model.new_cache(blocks_for(len(prompt) + count, 16))
    logits = [model.prefill(cache, sequence, prompt)]
    logits += [model.decode(cache, [sequence], [token])[0] for token in dense]
    exact = model.to(torch.float64).dense_logits([*prompt, *dense])[len(prompt) - 1 :]
    return [
        at_most("paged attention - dense float64, random tables, lengths and poisoned tails", worst, 1e-5),
        equals("greedy tokens that equal dense recomputation", _agreeing(paged, dense), count, f"of {count}"),
        at_most(
            "logits - dense float64, largest difference",
            float((torch.stack(logits).double() - exact).abs().max()),
            1e-4,
        ),
    ]


def _random_error(block_tokens: int, groups: int, seed: int) -> float:
    """Largest difference from dense attention; every slot without an owner holds NaN."""
    generator, heads, dim = torch.Generator().manual_seed(seed), 2, 32
    lens = [1, 7, 64, 150]
    pool = BlockPool(1, sum(blocks_for(n, block_tokens) for n in lens) + 5, block_tokens, heads, dim)
    cache, sequences, dense = KVCache(pool), [], []
    for tensor in (*pool.keys, *pool.values):
        tensor.fill_(torch.nan)
    waste = [pool.take(1) for _ in range(5)]
    for length in lens:
        k, v = torch.randn(2, length, heads, dim, generator=generator)
        sequences.append(Sequence())
        cache.write(0, cache.extend(sequences[-1], length), k, v)
        dense.append((k, v))
        if waste:
            pool.drop(waste.pop()[0])  # so that the next table is not in order
    q = torch.randn(len(lens), heads * groups, dim, generator=generator)
    out = paged_attention(q, cache, 0, block_table(sequences), lengths(sequences)).double()
    return max(
        float((out[i] - dense_reference(q[i : i + 1], k, v)[0]).abs().max()) for i, (k, v) in enumerate(dense)
    )


def _dense_greedy(model: Decoder, prompt: Many[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(model.dense_logits(tokens)[-1].argmax()))
    return tokens[len(prompt) :]


def _agreeing(left: Many[int], right: Many[int]) -> int:
    return sum(a == b for a, b in zip(left, right, strict=True))


def memory(model: Decoder, text: list[int], seed: int) -> list[Check]:
    """Waste in blocks for lengths like ShareGPT's, and the saving against 2,048 reserved tokens."""
    found = {block: usage(requests_like("sharegpt", 256, seed), block) for block in (8, 16, 32)}
    wasted = ", ".join(f"{100 * u.waste:.1f} % at {block}" for block, u in found.items())
    return [
        at_most("ShareGPT-like lengths: waste at block 16", 100 * found[16].waste, 4.0, "%", wasted),
        Check("ShareGPT-like lengths: saved against reserving 2,048", 100 * found[16].saved, 70.0, 80.0, "%"),
    ]


def copy_on_write(model: Decoder, text: list[int], seed: int) -> list[Check]:
    """Forks, parallel samples and beams: blocks are shared, copied when written, and all freed."""
    prompt, count, width = text[:90], 20, 4
    cache = model.new_cache(120)
    parent, before = Sequence(), cache.pool.free
    model.prefill(cache, parent, prompt)
    child = cache.fork(parent)
    model.decode(cache, [child], [text[0]])
    mine = model.decode(cache, [parent], [text[1]])[0]
    alone = model.dense_logits([*prompt, text[1]])[-1]
    copies = cache.copies
    cache.release(parent)
    cache.release(child)
    samples = sample(model, cache, prompt, 3, count, seed, ignore_eos=True)
    independent = [
        sample(model, model.new_cache(20), prompt, 1, count, seed + i, ignore_eos=True)[0] for i in range(3)
    ]
    beams = beam(model, cache, prompt, width, count, ignore_eos=True)
    wrong = max(abs(found.score - _log_probability(model, prompt, found.tokens)) for found in beams)
    cache.check()
    return [
        at_most(
            "a fork's append leaves the sibling's logits as they are", float((mine - alone).abs().max()), 1e-4
        ),
        equals("blocks copied by that append", copies, 1, "", "the prompt ends inside a block"),
        equals(
            "parallel samples that equal independent runs",
            sum(map(operator.eq, samples, independent)),
            3,
            "of 3",
        ),
        at_most(
            f"beam scores ({width} wide) - dense log-probabilities",
            wrong,
            1e-3,
            "nats",
            f"{cache.copies} blocks copied in all",
        ),
        equals("blocks free again at the end", cache.pool.free, before, f"of {before}"),
    ]


def _log_probability(model: Decoder, prompt: list[int], tokens: list[int]) -> float:
    logs = model.to(torch.float64).dense_logits([*prompt, *tokens]).log_softmax(-1)
    return sum(float(logs[len(prompt) - 1 + i, token]) for i, token in enumerate(tokens))


def preemption(model: Decoder, text: list[int], seed: int) -> list[Check]:
    """A sequence swapped out and in, and one computed again, against one left in the pool."""
    prompt = text[:500]
    blocks = blocks_for(len(prompt) + 1, 16)
    cache, sequence = model.new_cache(blocks), Sequence()
    model.prefill(cache, sequence, prompt)
    host, keys = HostPool(cache.pool, blocks), _read(cache, sequence)
    freed: list[int] = []

    def leave() -> None:
        before = cache.pool.used
        swap_out(cache, host, sequence)
        freed.append(before - cache.pool.used)
        for tensor in (*cache.pool.keys, *cache.pool.values):
            tensor.fill_(torch.nan)

    leave()
    swap_in(cache, host, sequence)
    swapped = float((_read(cache, sequence) - keys).abs().max())
    out, back, _, anew = seconds_of(
        model.device,
        lambda: swap_out(cache, host, sequence),
        lambda: swap_in(cache, host, sequence),
        lambda: cache.release(sequence),
        lambda: recompute(model, cache, sequence),
    )
    way = PreemptionCosts(len(prompt), out + back, anew).cheaper
    remark = f"out and in {1e3 * (out + back):.2f} ms, recompute {1e3 * anew:.1f} ms: {way} is cheaper here"
    return [
        equals("blocks that swapping out frees", freed[0], blocks_for(len(prompt), 16)),
        at_most("K/V after a swap out and in, the pool poisoned in between", swapped, 1e-5),
        at_most(
            "K/V after recomputing", float((_read(cache, sequence) - keys).abs().max()), 1e-5, "", remark
        ),
    ]


def _read(cache: KVCache, sequence: Sequence) -> Tensor:
    """K and V of a sequence, [layers, 2, tokens, kv_heads, head_dim], as attention reads them."""
    pool, found = cache.pool, []
    for layer in range(pool.layers):
        pair = torch.empty(
            2, len(sequence.blocks), pool.block_tokens, pool.kv_heads, pool.head_dim, dtype=pool.dtype
        )
        pool.gather(layer, torch.tensor(sequence.blocks), pair[0], pair[1])
        found.append(pair.flatten(1, 2)[:, : sequence.length])
    return torch.stack(found)


def quantised(model: Decoder, text: list[int], seed: int) -> list[Check]:
    """The model over quantised blocks: bytes, and how far the next token's distribution moves."""
    prompt, checks = text[:500], []
    exact = model.dense_logits(prompt)[-1].double().log_softmax(-1)
    for (name, bits), limits in zip(BITS.items(), ((0.6, 1e-3), (0.35, 0.05), (0.25, 1.0)), strict=True):
        cache, sequence = model.new_cache(40), Sequence()
        cache.pool.attach(QuantisedBlocks(cache.pool, 28, bits))
        model.prefill(cache, sequence, prompt[:-1])
        quantise_filled(cache, sequence)
        logs = model.decode(cache, [sequence], prompt[-1:])[0].double().log_softmax(-1)
        store = cache.pool.store
        ratio = (
            store.nbytes / (store.blocks * cache.pool.block_nbytes / cache.pool.dtype.itemsize * 2)
            if store
            else 1.0
        )
        kl = max(float(torch.sum(exact.exp() * (exact - logs))), 0.0)
        checks.append(at_most(f"{name}: bytes of fp16, scales counted", ratio, limits[0]))
        checks.append(
            at_most(
                f"{name}: KL of the next token",
                kl,
                limits[1],
                "nats",
                f"{cache.pool.stored} blocks of {len(sequence.blocks)}",
            )
        )
    return checks


PARTS: dict[str, Part] = {
    "correctness": correctness,
    "memory": memory,
    "copy on write": copy_on_write,
    "swap and recompute": preemption,
    "quantised blocks": quantised,
}


@torch.no_grad()
def run_checks(model: Decoder, text: list[int], seed: int) -> Iterator[tuple[str, list[Check]]]:
    """(part, its checks) of every part. `text` has at least 500 tokens."""
    for name, part in PARTS.items():
        yield name, part(model, text, seed)

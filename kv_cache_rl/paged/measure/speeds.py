"""Speed of paged attention beside contiguous attention, a loop over blocks, and a plain copy.

All in CPU seconds of the same run.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.paged.attention import paged_attention
from kv_cache_rl.paged.block_pool import BlockPool
from kv_cache_rl.paged.kv_cache import KVCache
from kv_cache_rl.paged.measure.timing import clock, median_seconds
from kv_cache_rl.paged.model import Decoder
from kv_cache_rl.paged.sequences import Sequence, block_table, lengths

BATCH, HEADS, KV_HEADS, DIM, BLOCK = 16, 32, 8, 128, 16
"""The attention of Llama-3.1-8B, a batch of 16, blocks of 16 tokens."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The same keys and values paged and contiguous."""

    q: Tensor  # [n, HEADS, DIM]
    cache: KVCache
    sequences: list[Sequence]
    k: Tensor  # [n, KV_HEADS, longest, DIM]
    v: Tensor
    lens: list[int]

    def paged(self) -> Tensor:
        """Outputs [n, HEADS, DIM] over the paged cache."""
        return paged_attention(self.q, self.cache, 0, block_table(self.sequences), lengths(self.sequences))

    def contiguous(self, grouped: bool = False) -> Tensor:
        """The same over the padded, contiguous tensors.

        `grouped`: the query heads of a key head are rows of one product. It reads the keys once.
        The library does not do so by itself.
        """
        mask = None
        if len(set(self.lens)) > 1:
            mask = (torch.arange(self.k.shape[2]) < torch.tensor(self.lens)[:, None])[:, None, None]
        heads = (KV_HEADS, HEADS // KV_HEADS) if grouped else (HEADS, 1)
        q = self.q.view(len(self.q), *heads, DIM)
        out = F.scaled_dot_product_attention(q, self.k, self.v, attn_mask=mask, enable_gqa=not grouped)
        return out.view(self.q.shape)

    def by_loop(self) -> Tensor:
        """The same by a Python loop over blocks with a running softmax, as in the seed."""
        out = torch.empty_like(self.q)
        for row, (sequence, length) in enumerate(zip(self.sequences, self.lens, strict=True)):
            q = self.q[row].view(KV_HEADS, -1, DIM)
            top, total, held = (
                torch.full(q.shape[:2], -math.inf),
                torch.zeros(q.shape[:2]),
                torch.zeros(q.shape),
            )
            for at, block in enumerate(sequence.blocks):
                k, v = (
                    x[0][block][: length - at * BLOCK].transpose(0, 1)
                    for x in (self.cache.pool.keys, self.cache.pool.values)
                )
                scores = q @ k.transpose(1, 2) / math.sqrt(DIM)
                higher = torch.maximum(top, scores.amax(-1))
                shrink, weights = torch.exp(top - higher), torch.exp(scores - higher[..., None])
                total, held = total * shrink + weights.sum(-1), held * shrink[..., None] + weights @ v
                top = higher
            out[row] = (held / total[..., None]).view(HEADS, DIM)
        return out


def batch_of(tokens: int, ragged: bool, dtype: torch.dtype, seed: int) -> Batch:
    """Sixteen sequences of `tokens` tokens, with their blocks scattered over the pool.

    `ragged`: their lengths run from half of `tokens` to `tokens`.
    """
    generator = torch.Generator().manual_seed(seed)
    lens = torch.linspace(tokens / 2, tokens, BATCH).int().tolist() if ragged else [tokens] * BATCH
    k, v = (torch.randn(BATCH, KV_HEADS, tokens, DIM, generator=generator).to(dtype) for _ in range(2))
    pool = BlockPool(1, sum(blocks_for(n, BLOCK) for n in lens), BLOCK, KV_HEADS, DIM, dtype)
    cache, sequences = KVCache(pool), [Sequence() for _ in lens]
    for start in range(0, tokens, BLOCK):  # round robin, as sequences grow side by side
        for sequence, length, keys, values in zip(sequences, lens, k, v, strict=True):
            stop = min(start + BLOCK, length)
            if start < stop:
                part = (x[:, start:stop].transpose(0, 1) for x in (keys, values))
                cache.write(0, cache.extend(sequence, stop - start), *part)
    q = torch.randn(BATCH, HEADS, DIM, generator=generator).to(dtype)
    return Batch(q, cache, sequences, k, v, lens)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Seconds of ours and of the peer's, measured in turns."""

    ours_s: float
    peer_s: float

    @property
    def times(self) -> float:
        """Ours as a multiple of the peer's."""
        return self.ours_s / self.peer_s


def ratio(ours: Callable[[], object], peer: Callable[[], object], repeats: int) -> Ratio:
    """Medians of both, measured in turns, so that other load on the machine falls on both."""
    cpu, pairs = torch.device("cpu"), []
    for _ in range(repeats):
        pairs.append((median_seconds(cpu, ours, 1), median_seconds(cpu, peer, 1)))
    ours_s, peer_s = (sorted(column)[len(pairs) // 2] for column in zip(*pairs, strict=True))
    return Ratio(ours_s, peer_s)


@torch.no_grad()
def decode_ratios(
    tokens: int, ragged: bool, dtype: torch.dtype, repeats: int, seed: int
) -> tuple[Ratio, Ratio]:
    """Decode attention: paged against the library's contiguous, and against that grouped by hand.

    Raises:
        ValueError: their outputs differ.
    """
    batch = batch_of(tokens, ragged, dtype, seed)
    _same(batch.paged(), batch.contiguous())
    plain, by_hand = (
        ratio(batch.paged, partial(batch.contiguous, grouped), repeats) for grouped in (False, True)
    )
    return plain, by_hand


@torch.no_grad()
def loop_ratio(tokens: int, repeats: int, seed: int) -> Ratio:
    """The loop over blocks against ours: how many times slower it is.

    Raises:
        ValueError: their outputs differ.
    """
    batch = batch_of(tokens, False, torch.float32, seed)
    _same(batch.paged(), batch.by_loop())
    return ratio(batch.by_loop, batch.paged, repeats)


def _same(left: Tensor, right: Tensor) -> None:
    off = float((left.double() - right.double()).abs().max())
    allowed = 1e-5 if left.dtype == torch.float32 else 2e-2
    if not off <= allowed:
        raise ValueError(
            f"outputs differ by {off}, {allowed} is allowed; times of different results are not compared"
        )


@torch.no_grad()
def write_ratio(tokens: int, repeats: int, seed: int) -> Ratio:
    """Writing a prompt's keys and values into scattered blocks against copying them."""
    batch = batch_of(tokens, False, torch.float32, seed)
    k, v = (x[0].transpose(0, 1).contiguous() for x in (batch.k, batch.v))
    pool = BlockPool(1, blocks_for(tokens, BLOCK), BLOCK, KV_HEADS, DIM)
    cache, sequence = KVCache(pool), Sequence()
    slots = cache.extend(sequence, tokens)
    into = torch.empty_like(k), torch.empty_like(v)

    def copy() -> None:
        into[0].copy_(k)
        into[1].copy_(v)

    return ratio(lambda: cache.write(0, slots, k, v), copy, repeats)


@dataclass(frozen=True, slots=True)
class Decoding:
    """A batch of sequences in a cache of their own, ready to decode."""

    model: Decoder
    cache: KVCache
    sequences: list[Sequence]

    def step(self) -> int:
        """Decodes a token of each sequence; returns how many more tokens the cache holds."""
        before = sum(sequence.length for sequence in self.sequences)
        self.model.decode(self.cache, self.sequences, [0] * len(self.sequences))
        return sum(sequence.length for sequence in self.sequences) - before


def decoding(
    model: Decoder, text: list[int], batch: int, block_tokens: int, context: int, steps: int
) -> Decoding:
    """A batch behind prompts of `context` tokens, with room for `steps` steps."""
    cache = model.new_cache(batch * blocks_for(context + steps, block_tokens), block_tokens)
    sequences = [Sequence() for _ in range(batch)]
    for row, sequence in enumerate(sequences):
        model.prefill(cache, sequence, text[row : row + context])
    return Decoding(model, cache, sequences)


@torch.no_grad()
def tokens_per_second(
    model: Decoder, text: list[int], cells: list[tuple[int, int]], context: int, steps: int
) -> dict[tuple[int, int], float]:
    """(block size, batch) → tokens decoded per CPU second, medians of `steps`.

    The cells take turns step by step, so that other load on the machine falls on all of them. The
    tokens that the caches gained are counted.
    """
    running = {cell: decoding(model, text, cell[1], cell[0], context, steps + 1) for cell in cells}
    rates: dict[tuple[int, int], list[float]] = {cell: [] for cell in cells}
    for round_ in range(steps + 1):
        for cell, batch in running.items():
            started = clock(model.device)
            tokens = batch.step()
            if round_:  # the first warms up
                rates[cell].append(tokens / (clock(model.device) - started))
    return {cell: statistics.median(found) for cell, found in rates.items()}

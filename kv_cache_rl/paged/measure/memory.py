"""How much memory paging saves: requests with real lengths, in a real pool and in reservations."""

from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np

from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.paged.block_pool import BlockPool
from kv_cache_rl.paged.decoding import beam
from kv_cache_rl.paged.errors import RequestError
from kv_cache_rl.paged.kv_cache import KVCache
from kv_cache_rl.paged.model import Decoder
from kv_cache_rl.paged.sequences import Sequence

LONGEST = 2048
"""Tokens that a system without paging reserves for every request.

Source: the maximum length of OPT in the PagedAttention paper.
"""
TICK_TOKENS = 8
"""Tokens a request grows between two looks at the memory."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean tokens of prompts and outputs.

    Source: Kwon et al., PagedAttention (2309.06180), figure 11.
    """

    prompt: float
    output: float
    shape: int
    """Of the gamma distribution of prompts, chosen after the paper's histograms.

    1 is geometric, 4 has a peak near the mean.
    """


TRACES = {"sharegpt": Lengths(161.31, 337.99, 1), "alpaca": Lengths(19.31, 58.45, 4)}


def requests_like(trace: str, count: int, seed: int) -> list[tuple[int, int]]:
    """(prompt, output) tokens of `count` requests with the trace's means.

    A prompt and its output have at most `LONGEST` tokens together. Outputs are geometric: many are
    short, few are long.
    """
    lengths, rng = TRACES[trace], np.random.default_rng(seed)
    prompts = (
        np.rint(rng.gamma(lengths.shape, lengths.prompt / lengths.shape, count))
        .clip(1, LONGEST - 1)
        .astype(int)
    )
    outputs = np.minimum(rng.geometric(1 / lengths.output, count), LONGEST - prompts)
    return list(zip(prompts.tolist(), outputs.tolist(), strict=True))


def small_cache(tokens: int, block_tokens: int) -> KVCache:
    """A cache with room for `tokens`, of one layer, head and channel.

    It serves to count blocks. Nothing is computed over it.
    """
    return KVCache(BlockPool(1, max(blocks_for(tokens, block_tokens), 1), block_tokens, 1, 1))


@dataclass(frozen=True, slots=True)
class Usage:
    """The memory of requests that a pool holds all at once."""

    tokens: int
    pool_bytes: int
    """Bytes of their blocks."""
    token_bytes: int
    """Bytes of their tokens alone."""
    reserved_bytes: int
    """Bytes of `LONGEST` tokens for each."""

    @property
    def waste(self) -> float:
        """Share of the blocks' bytes that hold no token."""
        return 1 - self.token_bytes / self.pool_bytes

    @property
    def saved(self) -> float:
        """Share saved against reserving."""
        return 1 - self.pool_bytes / self.reserved_bytes


def usage(requests: Many[tuple[int, int]], block_tokens: int) -> Usage:
    """The memory that `requests` take in a real pool once all have been answered."""
    lengths = [prompt + output for prompt, output in requests]
    cache = small_cache(sum(blocks_for(n, block_tokens) for n in lengths) * block_tokens, block_tokens)
    for length in lengths:
        cache.extend(Sequence(), length)
    cache.check()
    per_token = cache.pool.block_nbytes // block_tokens
    return Usage(sum(lengths), cache.nbytes, sum(lengths) * per_token, len(lengths) * LONGEST * per_token)


@dataclass(frozen=True, slots=True)
class Sharing:
    """Share of their blocks that samples of one prompt save because they share it."""

    at_end: float
    """Once all are written: (n - 1) floor(P / b) of n ceil((P + O) / b) blocks."""
    on_average: float
    """Mean while they are written."""


def parallel_saving(requests: Many[tuple[int, int]], samples: int, block_tokens: int = 16) -> Sharing:
    """Blocks saved by `samples` continuations of each prompt, as long as the request's output."""
    ends, looks, now = np.zeros(2), np.zeros(2), np.zeros(2)
    for prompt, output in requests:
        cache = small_cache(samples * (prompt + output + block_tokens), block_tokens)
        first = Sequence()
        cache.extend(first, prompt)
        sequences = [first, *(cache.fork(first) for _ in range(samples - 1))]
        for written in range(0, output, TICK_TOKENS):
            for sequence in sequences:
                cache.extend(sequence, min(TICK_TOKENS, output - written))
            now = np.array([cache.pool.used, sum(len(sequence.blocks) for sequence in sequences)])
            looks += now
        ends += now
    return Sharing(float(1 - ends[0] / ends[1]), float(1 - looks[0] / looks[1]))


@dataclass(frozen=True, slots=True)
class Beams:
    """Beam searches of the real model over a real cache, all steps counted."""

    saved: float
    """Share of the table entries without a block of their own."""
    copies_per_token: float
    """Blocks copied on write per token decoded."""


def beam_sharing(
    model: Decoder, text: Many[int], requests: Many[tuple[int, int]], width: int, block_tokens: int = 16
) -> Beams:
    """Blocks that beams of `width` share, behind prompts taken from `text` one after the other.

    Raises:
        RequestError: the text is shorter than all prompts together.
    """
    needed = sum(prompt for prompt, _ in requests)
    if len(text) < needed:
        raise RequestError(f"{len(text)} tokens of text for prompts of {needed} in all; give a longer text")
    held = entries = copies = decoded = at = 0

    def look(sequences: list[Sequence]) -> None:
        nonlocal held, entries
        held += len({block for sequence in sequences for block in sequence.blocks})
        entries += sum(len(sequence.blocks) for sequence in sequences)

    for prompt, output in requests:
        cache = model.new_cache((width + 1) * (blocks_for(prompt + output, block_tokens) + 1), block_tokens)
        start = [*model.tokenizer.opening, *text[at : at + prompt]][:prompt]
        beam(model, cache, start, width, output, look, ignore_eos=True)
        cache.check()
        at, copies, decoded = at + prompt, copies + cache.copies, decoded + width * output
    return Beams(1 - held / entries, copies / decoded)

"""How much memory paging saves: requests with real lengths, in a real pool and in reservations."""

import bisect
from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np

from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.core.errors import unknown
from kv_cache_rl.paged.block_pool import BlockPool, PoolError
from kv_cache_rl.paged.block_table import Sequence
from kv_cache_rl.paged.decoding import beam
from kv_cache_rl.paged.errors import RequestError
from kv_cache_rl.paged.kv_cache import KVCache
from kv_cache_rl.paged.model import Decoder

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
class Occupancy:
    """Shares of a memory, means over a run."""

    name: str
    tokens: float
    """Holds tokens."""
    internal: float
    """Reserved or in blocks, without a token."""
    external: float
    """In gaps that no request can use."""
    at_once: float
    """Mean number of requests held together; not a share."""


class _Blocks:
    """Blocks of a pool, taken as a request grows; without a free one the newest request stops."""

    def __init__(self, memory: int, block_tokens: int) -> None:
        self.cache, self.held = small_cache(memory, block_tokens), {}

    def least(self, prompt: int, total: int) -> int:
        """Tokens of memory without which a request never starts, or never ends."""
        size = self.cache.pool.block_tokens
        return blocks_for(max(prompt + TICK_TOKENS, total), size) * size

    def start(self, number: int, prompt: int, total: int) -> bool:
        if blocks_for(prompt + TICK_TOKENS, self.cache.pool.block_tokens) > self.cache.pool.free:
            return False
        self.held[number] = Sequence()
        self.cache.extend(self.held[number], prompt)
        return True

    def grow(self, number: int, tokens: int) -> bool:
        try:
            self.cache.extend(self.held[number], tokens)
        except PoolError:
            return False
        return True

    def stop(self, number: int) -> None:
        self.cache.release(self.held.pop(number))

    def taken(self) -> int:
        return self.cache.pool.used * self.cache.pool.block_tokens

    def unusable(self, _: int) -> int:
        return 0


class _Contiguous:
    """One stretch of memory per request, found first-fit, as long as `reserve` says."""

    def __init__(self, memory: int, reserve: Callable[[int], int]) -> None:
        self.memory, self.reserve = memory, reserve
        self.stretches: list[tuple[int, int, int]] = []  # start, length, request; sorted

    def gaps(self) -> list[tuple[int, int]]:
        at, found = 0, []
        for start, length, _ in self.stretches:
            found.append((at, start - at))
            at = start + length
        return [gap for gap in [*found, (at, self.memory - at)] if gap[1]]

    def least(self, prompt: int, total: int) -> int:
        return self.reserve(total)

    def start(self, number: int, prompt: int, total: int) -> bool:
        need = self.reserve(total)
        for start, length in self.gaps():
            if length >= need:
                bisect.insort(self.stretches, (start, need, number))
                return True
        return False

    def grow(self, number: int, tokens: int) -> bool:
        return True

    def stop(self, number: int) -> None:
        self.stretches = [s for s in self.stretches if s[2] != number]

    def taken(self) -> int:
        return sum(length for _, length, _ in self.stretches)

    def unusable(self, need: int) -> int:
        """Tokens in gaps too short for the waiting request; 0 where all gaps together are too short."""
        gaps = [length for _, length in self.gaps()]
        return sum(gaps) if sum(gaps) >= need > max(gaps, default=0) else 0


def _next_power(tokens: int) -> int:
    return 1 << (tokens - 1).bit_length()


RESERVATIONS: dict[str, Callable[[int], int]] = {
    "contiguous, longest": lambda total: LONGEST,
    "contiguous, power of two": _next_power,
    "contiguous, length known": lambda total: total,
}
"""Layout → tokens reserved for a request.

Source: the three Orca variants of the PagedAttention paper.
"""


def occupancy(requests: Many[tuple[int, int]], memory: int, name: str, block_tokens: int = 16) -> Occupancy:
    """How a memory of `memory` tokens is used while requests wait, start, grow and leave.

    `name` is "paged" or one of RESERVATIONS.

    Raises:
        RequestError: another name, a request that never fits, or a memory so large that none waits.
    """
    if name != "paged" and name not in RESERVATIONS:
        raise RequestError(unknown("layout", name, ["paged", *RESERVATIONS]))
    store = _Contiguous(memory, RESERVATIONS[name]) if name in RESERVATIONS else _Blocks(memory, block_tokens)
    for prompt, output in requests:
        if store.least(prompt, prompt + output) > memory:
            raise RequestError(
                f"a request of {prompt} + {output} tokens never fits a memory of {memory}, {name}; enlarge it"
            )
    waiting, running, looks = list(enumerate(requests))[::-1], {}, []
    while waiting or running:
        while waiting:
            number, (prompt, output) = waiting[-1]
            if not store.start(number, prompt, prompt + output):
                break
            running[number] = [prompt, prompt + output]
            waiting.pop()
        if waiting:  # without a waiting request, the memory need not be full
            held = sum(tokens for tokens, _ in running.values())
            need = store.reserve(sum(waiting[-1][1])) if isinstance(store, _Contiguous) else 0
            looks.append((held, store.taken() - held, store.unusable(need), len(running)))
        for number, at in list(running.items()):
            if number not in running:
                continue
            step = min(TICK_TOKENS, at[1] - at[0])
            while number in running and not store.grow(number, step):
                newest = max(running)
                store.stop(newest)
                del running[newest]
                waiting.append((newest, requests[newest]))
            at[0] += step
            if number in running and at[0] == at[1]:
                store.stop(number)
                del running[number]
    if not looks:
        raise RequestError(
            f"a memory of {memory} tokens holds all {len(requests)} requests at once; "
            "give more, or less memory"
        )
    tokens, internal, external, at_once = (float(mean) for mean in np.mean(looks, axis=0))
    return Occupancy(name, tokens / memory, internal / memory, external / memory, at_once)


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
        beam(model, cache, text[at : at + prompt], width, output, look)
        cache.check()
        at, copies, decoded = at + prompt, copies + cache.copies, decoded + width * output
    return Beams(1 - held / entries, copies / decoded)

"""A walk through a paged cache: three samples of one prompt, from prefill to swap in, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass

from torch import Tensor

from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.paged.drawing import check_request, drawn, generator_of
from kv_cache_rl.paged.model import Decoder
from kv_cache_rl.paged.sequences import Sequence
from kv_cache_rl.paged.snapshot import Snapshot, snapshot
from kv_cache_rl.paged.swap import HostPool, swap_in, swap_out

SAMPLES = 3
SPARE = 2
"""Blocks that stay free all the time, so that a picture shows some."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of the walk, and what the cache looks like behind it."""

    title: str
    note: str
    seen: Snapshot


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def tour(model: Decoder, prompt: Many[int], tokens: int, block_tokens: int, seed: int) -> Iterator[Stage]:
    """The stages: prefill, fork, copy on write, decode, swap out, release, swap in.

    Raises:
        RequestError: an empty prompt, nothing to generate, or a seed that is none.
    """
    check_request(prompt, tokens)
    draws = [generator_of(seed + i) for i in range(SAMPLES)]
    shared, each = len(prompt) // block_tokens, blocks_for(len(prompt) + tokens, block_tokens)
    # All samples side by side, or two that share nothing any more.
    most = max(shared + SAMPLES * (each - shared), 2 * each)
    cache = model.new_cache(most + SPARE, block_tokens)
    pool, host = cache.pool, HostPool(cache.pool, each)
    held = {"sample 0": Sequence()}

    def seen(title: str, note: str) -> Stage:
        cache.check()
        return Stage(title, note, snapshot(cache, held, host))

    first = held["sample 0"]
    logits = model.prefill(cache, first, prompt)[None].expand(SAMPLES, -1)
    room = len(first.blocks) * block_tokens - len(prompt)
    yield seen(
        "prefill",
        f"{_count(len(prompt), 'token')} in {_count(len(first.blocks), 'block')} of {block_tokens}; "
        f"{_count(room, 'slot')} empty",
    )
    held |= {f"sample {i}": cache.fork(first) for i in range(1, SAMPLES)}
    yield seen("fork", f"{SAMPLES - 1} more samples start on the same blocks: a table each, and no copy")

    def decoded(logits: Tensor, count: int) -> Tensor:
        for _ in range(count):
            chosen = [drawn(row, draw) for row, draw in zip(logits, draws, strict=True)]
            logits = model.decode(cache, list(held.values()), chosen)
        return logits

    logits = decoded(logits, 1)
    why = "none sees another's token" if cache.copies else "the prompt ends with a full block"
    yield seen(
        "copy on write", f"each sample writes a token; {_count(cache.copies, 'block')} copied first: {why}"
    )
    if tokens > 1:
        decoded(logits, tokens - 1)
        yield seen("decode", f"{_count(tokens - 1, 'more token')} of each sample, in blocks of its own")
    last, done = held[f"sample {SAMPLES - 1}"], held["sample 1"]
    freed = swap_out(cache, host, last)
    yield seen(
        "swap out",
        f"sample {SAMPLES - 1} moves to the host: {_count(freed, 'block')} freed, shared ones stay",
    )
    cache.publish(done)
    free = pool.free
    cache.release(done)
    freed = _count(pool.free - free, "block")
    yield seen(
        "release", f"sample 1 is done: {freed} freed; the full ones keep their contents for a later prompt"
    )
    swap_in(cache, host, last)
    yield seen("swap in", f"sample {SAMPLES - 1} comes back into other blocks, and shares none")

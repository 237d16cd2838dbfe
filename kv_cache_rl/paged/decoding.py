"""Greedy decoding, parallel sampling and beam search over a paged cache.

    prompt --prefill once--> logits --fork per continuation-->
    [ choose a token each -> decode all in one batch ] x n --> release

Continuations share blocks and copy one when they write into it. When a search ends, with an error
or without, all its blocks are freed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from kv_cache_rl.paged.block_table import Sequence
from kv_cache_rl.paged.errors import RequestError
from kv_cache_rl.paged.kv_cache import KVCache
from kv_cache_rl.paged.model import Decoder

AfterStep = Callable[[list[Sequence]], None]
"""Called with the held sequences after the prompt and after every decode step."""


@dataclass(frozen=True, slots=True)
class Beam:
    """A continuation, with the sum of its tokens' log-probabilities as score."""

    tokens: list[int]
    score: float


def greedy(
    model: Decoder, cache: KVCache, prompt: Many[int], count: int, after_step: AfterStep | None = None
) -> list[int]:
    """`count` tokens behind `prompt`, each the likeliest after those before.

    Raises:
        RequestError: an empty prompt, or nothing to generate.
    """
    check_request(prompt, count)
    chosen: list[int] = []
    with _held(cache) as held:
        logits = _begun(model, cache, held, prompt, after_step)
        while True:
            chosen.append(int(logits.argmax()))
            if len(chosen) == count:
                return chosen
            logits = _decoded(model, cache, held, chosen[-1:], after_step)[0]


def sample(
    model: Decoder,
    cache: KVCache,
    prompt: Many[int],
    samples: int,
    count: int,
    seed: int,
    temperature: float = 1.0,
    after_step: AfterStep | None = None,
) -> list[list[int]]:
    """`samples` continuations of `count` tokens each, drawn from the model.

    Sample i equals the one sample of a run with seed + i.

    Raises:
        RequestError: an empty prompt, no samples, nothing to generate, or a temperature not above
            0.
    """
    check_request(prompt, count, temperature)
    if samples < 1:
        raise RequestError(f"{samples} samples; give at least 1")
    draws = [generator_of(seed + i) for i in range(samples)]
    with _held(cache) as held:
        logits = _begun(model, cache, held, prompt, after_step).expand(samples, -1)
        held += [cache.fork(held[0]) for _ in range(samples - 1)]
        chosen: list[list[int]] = [[] for _ in draws]
        for step in range(count):
            if step:
                logits = _decoded(model, cache, held, [tokens[-1] for tokens in chosen], after_step)
            for tokens, row, generator in zip(chosen, logits, draws, strict=True):
                tokens.append(drawn(row, generator, temperature))
    return chosen


def beam(
    model: Decoder,
    cache: KVCache,
    prompt: Many[int],
    width: int,
    count: int,
    after_step: AfterStep | None = None,
) -> list[Beam]:
    """The `width` best continuations of `count` tokens in a search of that width, best first.

    A parent with several children is forked. One without children is released before any child
    writes.

    Raises:
        RequestError: an empty prompt, nothing to generate, or a width outside 1 to the vocabulary.
    """
    check_request(prompt, count)
    vocab = model.geometry.vocab
    if not 1 <= width <= vocab:
        raise RequestError(f"a beam of width {width} over {vocab} tokens; give a width from 1 to {vocab}")
    with _held(cache) as held:
        logits = _begun(model, cache, held, prompt, after_step)[None]
        beams = [Beam([], 0.0)]
        while True:
            parents, beams = _best(beams, logits, width)
            if len(beams[0].tokens) == count:
                return beams
            _inherit(cache, held, parents)
            logits = _decoded(model, cache, held, [b.tokens[-1] for b in beams], after_step)


def _best(beams: list[Beam], logits: Tensor, width: int) -> tuple[list[int], list[Beam]]:
    """(parent of each beam, the `width` best beams, one token longer), best first."""
    gains = logits.double().log_softmax(-1)
    totals = gains + torch.tensor([b.score for b in beams], dtype=torch.float64, device=gains.device)[:, None]
    scores, at = totals.flatten().topk(width)
    parents, tokens = (at // gains.shape[-1]).tolist(), (at % gains.shape[-1]).tolist()
    longer = zip(parents, tokens, scores.tolist(), strict=True)
    return parents, [Beam([*beams[parent].tokens, token], score) for parent, token, score in longer]


def _inherit(cache: KVCache, held: list[Sequence], parents: list[int]) -> None:
    """Turns `held` in place into the sequences of the new beams: released, kept or forked."""
    before, heirs = list(held), set(parents)
    for index, sequence in enumerate(before):
        if index not in heirs:
            held.remove(sequence)
            cache.release(sequence)
    after, kept = [], set()
    for parent in parents:
        if parent in kept:
            held.append(cache.fork(before[parent]))
            after.append(held[-1])
        else:
            kept.add(parent)
            after.append(before[parent])
    held[:] = after


@contextmanager
def _held(cache: KVCache) -> Iterator[list[Sequence]]:
    """The sequences of one search; they are released when it ends, with an error or without."""
    held: list[Sequence] = []
    try:
        yield held
    finally:
        for sequence in held:
            cache.release(sequence)


def _begun(
    model: Decoder, cache: KVCache, held: list[Sequence], prompt: Many[int], after_step: AfterStep | None
) -> Tensor:
    held.append(Sequence())
    logits = model.prefill(cache, held[0], prompt)
    if after_step:
        after_step(held)
    return logits


def _decoded(
    model: Decoder, cache: KVCache, held: list[Sequence], tokens: list[int], after_step: AfterStep | None
) -> Tensor:
    logits = model.decode(cache, held, tokens)
    if after_step:
        after_step(held)
    return logits


def generator_of(seed: int) -> torch.Generator:
    """The stream of random numbers of one sample."""
    return torch.Generator().manual_seed(seed)


def drawn(logits: Tensor, generator: torch.Generator, temperature: float = 1.0) -> int:
    """A token drawn from `logits` [vocab].

    It takes one uniform number and compares it with the running sum of probabilities, so that two
    rows that differ by rounding give the same token.
    """
    below = (logits.double().cpu() / temperature).softmax(-1).cumsum(-1)
    at = torch.searchsorted(
        below, torch.rand(1, generator=generator, dtype=torch.float64) * below[-1], right=True
    )
    return min(int(at), len(below) - 1)


def check_request(prompt: Many[int], count: int, temperature: float = 1.0) -> None:
    """Raises RequestError for an empty prompt, nothing to generate, or a temperature not above 0."""
    if not len(prompt) or count < 1:
        raise RequestError(
            f"a prompt of {len(prompt)} tokens and {count} to generate; give at least one of each"
        )
    if not 0 < temperature < float("inf"):
        raise RequestError(f"a temperature of {temperature}; give a finite one above 0, or decode greedily")

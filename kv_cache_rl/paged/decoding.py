"""Greedy, parallel sampling and beam search over a paged cache: continuations share blocks and copy one when
they write into it.

prompt --prefill once--> logits --fork per continuation--> [ choose a token each -> decode all in one batch ]
* n --> release

Whatever happens, an error included, every block that a search took is given back when it ends.
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
"""Called with the sequences that are held after the prompt and after every decode step, to see how many
blocks they take.
"""


@dataclass(frozen=True, slots=True)
class Beam:
    """A continuation and the sum of its tokens' log-probabilities."""

    tokens: list[int]
    score: float


def greedy(
    model: Decoder, cache: KVCache, prompt: Many[int], count: int, after_step: AfterStep | None = None
) -> list[int]:
    """The `count` likeliest tokens one after the other behind `prompt`."""
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
    """`samples` continuations of `count` tokens each, drawn from the model; sample i is that of its own run
    with seed + i.
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
    """The `width` best continuations of `count` tokens that a search of that width finds, best first.

    A parent with several surviving children is forked, one with none is released before anybody writes.
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
    """(parent of each, the best `width` beams one token longer), best first."""
    gains = logits.double().log_softmax(-1)
    totals = gains + torch.tensor([b.score for b in beams], dtype=torch.float64, device=gains.device)[:, None]
    scores, at = totals.flatten().topk(width)
    parents, tokens = (at // gains.shape[-1]).tolist(), (at % gains.shape[-1]).tolist()
    longer = zip(parents, tokens, scores.tolist(), strict=True)
    return parents, [Beam([*beams[parent].tokens, token], score) for parent, token, score in longer]


def _inherit(cache: KVCache, held: list[Sequence], parents: list[int]) -> None:
    """Makes `held` the sequences of the new beams: released, kept or forked, in place."""
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
    """Sequences of one search; released when it ends, however it ends."""
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

    One uniform number a token, against the running sum of probabilities: two rows that differ by rounding
    draw alike."""
    below = (logits.double().cpu() / temperature).softmax(-1).cumsum(-1)
    at = torch.searchsorted(
        below, torch.rand(1, generator=generator, dtype=torch.float64) * below[-1], right=True
    )
    return min(int(at), len(below) - 1)


def check_request(prompt: Many[int], count: int, temperature: float = 1.0) -> None:
    """Raises RequestError for an empty prompt, nothing to generate, or a temperature that is not above 0."""
    if not len(prompt) or count < 1:
        raise RequestError(
            f"a prompt of {len(prompt)} tokens and {count} to generate; give at least one of each"
        )
    if not 0 < temperature < float("inf"):
        raise RequestError(f"a temperature of {temperature}; give a finite one above 0, or decode greedily")

"""Greedy decoding, parallel sampling and beam search over a paged cache.

    prompt --prefill once--> logits --fork per continuation-->
    [ choose a token each -> those that end leave -> decode the others in one batch ] --> release

Continuations share blocks and copy one when they write into it. When a search ends, with an error
or without, all its blocks are freed. `ending` says where a continuation ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kv_cache_rl.paged.drawing import check_request, drawn, generator_of
from kv_cache_rl.paged.ending import Ending, Stop, StopText, ending_of
from kv_cache_rl.paged.errors import RequestError, number, whole
from kv_cache_rl.paged.kv_cache import KVCache
from kv_cache_rl.paged.model import Decoder
from kv_cache_rl.paged.sequences import Sequence

AfterStep = Callable[[list[Sequence]], None]
"""Called with the held sequences after the prompt and after every decode step."""
STEEPEST = 10.0
"""Largest length penalty, either way: with more, powers of a length overflow."""


@dataclass(frozen=True, slots=True)
class Beam:
    """A continuation, with the sum of its tokens' log-probabilities as score."""

    tokens: list[int]
    score: float
    ended: bool = False
    """Whether a stop ended it, rather than the number of tokens asked for."""

    def rank(self, length_penalty: float = 1.0) -> float:
        """Score / tokens ^ `length_penalty`: beams of different lengths are compared by it.

        Source: Wu et al., "Google's Neural Machine Translation System" (1609.08144), as simplified
        by transformers and vLLM.

        >>> Beam([1, 2], -3.0).rank(), Beam([1, 2], -3.0).rank(0.0)
        (-1.5, -3.0)
        """
        return self.score / len(self.tokens) ** length_penalty


def greedy(
    model: Decoder,
    cache: KVCache,
    prompt: Many[int],
    count: int,
    after_step: AfterStep | None = None,
    *,
    stop: Stop = None,
    stop_text: StopText = None,
    ignore_eos: bool = False,
) -> list[int]:
    """Up to `count` tokens behind `prompt`, each the likeliest after those before.

    Stops are those of `ending_of`.

    Raises:
        RequestError: an empty prompt, nothing to generate, or stops that are none.
    """
    check_request(prompt, count)
    ending, chosen = ending_of(model, stop, stop_text, ignore_eos), []
    with _held(cache) as held:
        logits = _begun(model, cache, held, prompt, after_step)
        while True:
            chosen.append(int(logits.argmax()))
            if len(chosen) == count or ending.reached(chosen):
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
    *,
    stop: Stop = None,
    stop_text: StopText = None,
    ignore_eos: bool = False,
) -> list[list[int]]:
    """`samples` continuations of up to `count` tokens each, drawn from the model.

    Sample i equals the one sample of a run with seed + i. One that ends (`ending_of`) frees its
    blocks at once.

    Raises:
        RequestError: an empty prompt, no samples, nothing to generate, a temperature not above 0,
            or a seed or stops that are none.
    """
    check_request(prompt, count, temperature)
    if whole(samples, f"{samples!r} samples") < 1:
        raise RequestError(f"{samples} samples; give at least 1")
    ending = ending_of(model, stop, stop_text, ignore_eos)
    draws = [generator_of(whole(seed, f"{seed!r} as a seed") + i) for i in range(samples)]
    with _held(cache) as held:
        logits = _begun(model, cache, held, prompt, after_step).expand(samples, -1)
        held += [cache.fork(held[0]) for _ in range(samples - 1)]
        chosen: list[list[int]] = [[] for _ in draws]
        going = list(range(samples))
        for step in range(count):
            if step:
                logits = _decoded(model, cache, held, [chosen[i][-1] for i in going], after_step)
            for i, row in zip(going, logits, strict=True):
                chosen[i].append(drawn(row, draws[i], temperature))
            stay = [at for at, i in enumerate(going) if not ending.reached(chosen[i])]
            going = [going[at] for at in stay]
            _keep(cache, held, stay)
            if not going:
                break
    return chosen


def beam(
    model: Decoder,
    cache: KVCache,
    prompt: Many[int],
    width: int,
    count: int,
    after_step: AfterStep | None = None,
    *,
    stop: Stop = None,
    stop_text: StopText = None,
    ignore_eos: bool = False,
    length_penalty: float = 1.0,
) -> list[Beam]:
    """The `width` best continuations of up to `count` tokens in a search of that width, best first.

    A continuation that ends (`ending_of`) while it is among the best `width` of its step is set
    aside as finished; the others go on. All are compared by `Beam.rank`. The search ends with
    `count` tokens, or as soon as no running beam can still outrank the finished ones.

    A parent with several children is forked. One without children is released before any child
    writes.

    Raises:
        RequestError: an empty prompt, nothing to generate, a width outside 1 to the vocabulary, or
            stops or a length penalty that are none.
    """
    check_request(prompt, count)
    vocab = model.geometry.vocab
    if not 1 <= whole(width, f"a beam of width {width!r}") <= vocab:
        raise RequestError(f"a beam of width {width} over {vocab} tokens; give a width from 1 to {vocab}")
    if not abs(number(length_penalty, f"a length penalty of {length_penalty!r}")) <= STEEPEST:
        raise RequestError(
            f"a length penalty of {length_penalty!r}; give a number from {-STEEPEST:g} to {STEEPEST:g}"
        )
    ending = ending_of(model, stop, stop_text, ignore_eos)

    def best(beams: list[Beam]) -> list[Beam]:
        return sorted(beams, key=lambda beam: -beam.rank(length_penalty))[:width]

    with _held(cache) as held:
        logits = _begun(model, cache, held, prompt, after_step)[None]
        running, finished = [Beam([], 0.0)], []
        while True:
            parents, running, ended = _grown(running, logits, width, ending)
            finished = best(finished + ended)
            if not running or len(running[0].tokens) == count:
                return best(finished + running)
            if len(finished) == width and finished[-1].rank(length_penalty) >= _limit(
                running[0], count, length_penalty
            ):
                return finished
            _inherit(cache, held, parents)
            logits = _decoded(model, cache, held, [b.tokens[-1] for b in running], after_step)


def _limit(running: Beam, count: int, length_penalty: float) -> float:
    """A rank that no continuation of a running beam exceeds: more tokens never add to a score."""
    return running.score / (count if length_penalty >= 0 else len(running.tokens) + 1) ** length_penalty


def _grown(
    beams: list[Beam], logits: Tensor, width: int, ending: Ending
) -> tuple[list[int], list[Beam], list[Beam]]:
    """(parent of each beam that goes on, those beams, the beams that end), one token longer."""
    parents, on, ended = [], [], []
    for place, (parent, token, score) in enumerate(_ranked(beams, logits, width)):
        longer = Beam([*beams[parent].tokens, token], score)
        if not ending.reached(longer.tokens):
            parents.append(parent)
            on.append(longer)
        elif place < width:
            ended.append(replace(longer, ended=True))
        if len(on) == width:
            break
    return parents, on, ended


def _ranked(beams: list[Beam], logits: Tensor, width: int) -> Iterator[tuple[int, int, float]]:
    """(parent, token, score) of every beam with every next token, the highest score first."""
    gains = logits.double().log_softmax(-1)
    totals = gains + torch.tensor([b.score for b in beams], dtype=torch.float64, device=gains.device)[:, None]
    flat, vocab, seen = totals.flatten(), gains.shape[-1], set()
    # More than `width` are asked for only where some of the first end.
    for many in (width, 4 * width, math.inf):
        scores, places = flat.topk(int(min(many, len(flat))))
        for score, place in zip(scores.tolist(), places.tolist(), strict=True):
            if place not in seen:
                seen.add(place)
                yield place // vocab, place % vocab, score


def _keep(cache: KVCache, held: list[Sequence], stay: list[int]) -> None:
    """Releases the sequences of `held` that are not at one of the places `stay`."""
    kept = set(stay)
    for sequence in [sequence for at, sequence in enumerate(held) if at not in kept]:
        held.remove(sequence)
        cache.release(sequence)


def _inherit(cache: KVCache, held: list[Sequence], parents: list[int]) -> None:
    """Turns `held` in place into the sequences of the new beams: released, kept or forked."""
    before = list(held)
    _keep(cache, held, parents)
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

"""What quantised keys and values change: attention outputs, distributions, likelihood."""

import math
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.paged.attention import paged_attention, paged_prefill
from kv_cache_rl.paged.errors import RequestError
from kv_cache_rl.paged.kv_cache import KVCache
from kv_cache_rl.paged.model import Decoder, dense
from kv_cache_rl.paged.quantised_blocks import KEY_SPAN, QuantisedBlocks, quantise_filled
from kv_cache_rl.paged.sequences import Sequence, block_table, lengths
from kv_cache_rl.paged.training.corpus import text
from kv_cache_rl.paged.training.train import HELD_OUT_SEED

Bits = tuple[int, int]
"""Bits of keys and of values."""
SCHEMES: dict[str, Bits] = {
    "int8": (8, 8), "k8v4": (8, 4), "k4v8": (4, 8), "int4": (4, 4), "k8v2": (8, 2),
    "k4v2": (4, 2), "k2v8": (2, 8), "k2v4": (2, 4), "int2": (2, 2),
}  # fmt: skip
"""Name → bits.

The mixed schemes show whether keys or values need bits more, and add points to the law.
"""
WINDOW_FLOOR = 2 * KEY_SPAN
"""Shortest window that has both a quantised past and a current group."""


@dataclass(frozen=True, slots=True)
class Quality:
    """One scheme against an exact cache, over the tokens that see a quantised past."""

    kl: float
    """Mean divergence of the next token's distribution from the exact one, nats per token."""
    delta_nll: float
    """Nats per token that the text becomes less likely."""
    attention_error: float
    """Relative error of attention outputs for the same queries.

    Root mean square over tokens, layers and heads.
    """


SMALL_ERROR = 0.1
"""Largest relative error of attention outputs in the fit of the law: it holds for small ones."""


@dataclass(frozen=True, slots=True)
class Law:
    """KL = factor x error^2 where the error is small, and how well that holds."""

    factor: float
    """Geometric mean of KL / e^2."""
    exponent: float
    """The exponent if it were free, by least squares in the logarithms."""
    r_squared: float
    """Share of the variance of log KL that the law with exponent 2 explains."""
    points: int
    beyond: float | None
    """Divergence over the law's where the error is larger (geometric mean); None if it never is."""


def held_out_tokens(model: Decoder, least: int) -> list[int]:
    """At least `least` tokens of tales that the shipped model was not trained on, none special."""
    size = 4 * least
    while len(tokens := model.tokenizer.plain(text(HELD_OUT_SEED, size).decode())) < least:
        size *= 2
    return tokens


def windows(tokens: Many[int], rows: int, length: int, opening: Many[int] = ()) -> Tensor:
    """The first `rows` windows of `length` tokens of a text, int64 [rows, length].

    Each begins with `opening`, the special tokens that a text of the checkpoint begins with: the
    first token of a sequence is the one that attention falls back on.

    Raises:
        RequestError: the text or the windows are too short.
    """
    if length < WINDOW_FLOOR or rows < 1:
        raise RequestError(
            f"{rows} windows of {length} tokens; give at least 1 of {WINDOW_FLOOR}, "
            "so that a past can be quantised"
        )
    each = length - len(opening)
    if len(tokens) < rows * each:
        raise RequestError(
            f"the text has {len(tokens)} tokens, {rows} windows of {length} need {rows * each}; "
            "give a longer one"
        )
    return torch.tensor([[*opening, *tokens[row * each : (row + 1) * each]] for row in range(rows)])


@torch.no_grad()
def qualities(
    model: Decoder,
    rows: Tensor,
    schemes: Mapping[str, Bits],
    block_tokens: int = 16,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[str, Quality], float]:
    """The quality of every scheme, and the exact cache's nats per token, on windows [n, t].

    The caches advance together, group by group. A token sees its own group exact and all groups
    before it quantised, as in decoding token by token. Tokens with a quantised group before them
    are counted.
    """
    exact = _Rows(model, rows, None, block_tokens)
    others = {name: _Rows(model, rows, bits, block_tokens) for name, bits in schemes.items()}
    sums, nll, counted = {name: [0.0, 0.0] for name in schemes}, 0.0, 0
    borders = [*range(0, rows.shape[1] - 1, exact.span), rows.shape[1] - 1]
    for done, (start, stop) in enumerate(pairwise(borders), 1):
        targets = rows[:, start + 1 : stop + 1, None].to(model.device)
        logs = exact.advance(stop).double().log_softmax(-1)
        seen = torch.sum(-logs.gather(-1, targets))
        for name, cached in others.items():
            theirs = cached.advance(stop).double().log_softmax(-1)
            if start:
                sums[name][0] += float(F.kl_div(theirs, logs, log_target=True, reduction="sum"))
                sums[name][1] += float(torch.sum(-theirs.gather(-1, targets)) - seen)
        if start:
            nll, counted = nll + float(seen), counted + targets.numel()
        on_step(done, len(borders) - 1)
    errors = attention_errors(model, rows, schemes, block_tokens)
    found = {
        name: Quality(max(kl, 0.0) / counted, more / counted, errors[name])
        for name, (kl, more) in sums.items()
    }
    return found, nll / counted


class _Rows:
    """Windows in a cache of their own, exact or with a store for the full groups."""

    def __init__(self, model: Decoder, rows: Tensor, bits: Bits | None, block_tokens: int) -> None:
        self.model, self.rows, self.quantised = model, rows, bits is not None
        count, whole = len(rows), blocks_for(rows.shape[1], block_tokens)
        self.span = blocks_for(KEY_SPAN, block_tokens) * block_tokens
        exact = min(whole, 2 * self.span // block_tokens) if bits else whole
        self.cache: KVCache = model.new_cache(count * exact, block_tokens)
        if bits:
            span = self.span // block_tokens
            self.cache.pool.attach(
                QuantisedBlocks(self.cache.pool, count * blocks_for(whole, span) * span, *bits)
            )
        self.sequences = [Sequence() for _ in range(count)]

    def advance(self, stop: int) -> Tensor:
        """Computes the tokens of every window up to `stop`; returns logits [n, tokens, vocab]."""
        start = self.sequences[0].length
        logits = torch.stack(
            [
                self._run(sequence, row[start:stop])
                for sequence, row in zip(self.sequences, self.rows, strict=True)
            ]
        )
        self.settle()
        return logits

    def _run(self, sequence: Sequence, tokens: Tensor) -> Tensor:
        start, slots = sequence.length, self.cache.extend(sequence, len(tokens))
        sequence.tokens += tokens.tolist()

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.cache.write(layer, slots, k, v)
            return paged_prefill(q, self.cache, layer, sequence, start)

        device = self.model.device
        return self.model.run(tokens.to(device), torch.arange(start, sequence.length, device=device), attend)

    def settle(self) -> None:
        """Quantises the groups that are full now."""
        if self.quantised and self.sequences[0].length % self.span == 0:
            for sequence in self.sequences:
                quantise_filled(self.cache, sequence)


@torch.no_grad()
def attention_errors(
    model: Decoder, rows: Tensor, schemes: Mapping[str, Bits], block_tokens: int = 16
) -> dict[str, float]:
    """Relative error of the attention outputs of real queries over quantised pasts, by scheme.

    Queries, keys and values are those of the exact model, so that no error passes from layer to
    layer.
    """
    layers = _activations(model, rows)
    exact = _Rows(model, rows, None, block_tokens)
    others = {name: _Rows(model, rows, bits, block_tokens) for name, bits in schemes.items()}
    wrong, norm = dict.fromkeys(schemes, 0.0), 0.0
    span, done = exact.span, 0
    for stop in range(span + span // 2, rows.shape[1] + 1, span):
        for cached in (exact, *others.values()):
            _append(cached, layers, done, stop)
        done = stop
        for layer, (q, _, _) in enumerate(layers):
            outputs = _attend(exact, layer, q[:, stop - 1])
            norm += float(outputs.square().sum())
            for name, cached in others.items():
                wrong[name] += float((_attend(cached, layer, q[:, stop - 1]) - outputs).square().sum())
    return {name: math.sqrt(total / norm) for name, total in wrong.items()}


def _activations(model: Decoder, rows: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Per layer: queries, keys and values [n, t, heads, head_dim] of the windows."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        found.append((q, k, v))
        return dense(layer, q, k, v)

    model.run(rows.to(model.device), torch.arange(rows.shape[1], device=model.device), attend)
    return found


def _append(cached: _Rows, layers: list[tuple[Tensor, Tensor, Tensor]], start: int, stop: int) -> None:
    """Writes keys and values of positions `start` to `stop`; each group is quantised once full."""
    span = cached.span
    borders = range((start // span + 1) * span, stop, span)
    for low, high in pairwise([start, *borders, stop]):
        for row, sequence in enumerate(cached.sequences):
            slots = cached.cache.extend(sequence, high - low)
            for layer, (_, k, v) in enumerate(layers):
                cached.cache.write(layer, slots, k[row, low:high], v[row, low:high])
        cached.settle()


def _attend(cached: _Rows, layer: int, q: Tensor) -> Tensor:
    tables, lens = block_table(cached.sequences, q.device), lengths(cached.sequences)
    return paged_attention(q, cached.cache, layer, tables, lens).double()


def fit_law(points: Many[Quality]) -> Law:
    """The law KL = c e^2 through the points with an error up to `SMALL_ERROR`.

    Raises:
        RequestError: there are fewer than three.
    """
    pairs = [
        (math.log(p.attention_error), math.log(p.kl)) for p in points if p.kl > 0 and p.attention_error > 0
    ]
    small = [pair for pair in pairs if pair[0] <= math.log(SMALL_ERROR)]
    if len(small) < 3:
        raise RequestError(
            f"{len(small)} schemes with an error up to {SMALL_ERROR} and a divergence, "
            "the law needs at least 3; give a longer text, or a model that attends to its past"
        )
    e, kl = np.array(small).T
    offset = float((kl - 2 * e).mean())
    residual, spread = ((kl - 2 * e - offset) ** 2).sum(), ((kl - kl.mean()) ** 2).sum()
    excess = [log_kl - 2 * log_e - offset for log_e, log_kl in pairs if log_e > math.log(SMALL_ERROR)]
    beyond = math.exp(sum(excess) / len(excess)) if excess else None
    return Law(
        math.exp(offset), float(np.polyfit(e, kl, 1)[0]), float(1 - residual / spread), len(small), beyond
    )

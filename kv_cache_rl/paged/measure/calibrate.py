"""A calibration measured on this machine: bytes, seconds and divergence of each precision.

The result is a `core.calibration.Calibration`, one more named profile beside the literature's.
"""

import os
import statistics
from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch

from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.core.calibration import Calibration, Scheme
from kv_cache_rl.core.geometry import ModelGeometry, bytes_per_token
from kv_cache_rl.core.hardware import HardwareProfile, Link
from kv_cache_rl.paged.drawing import generator_of
from kv_cache_rl.paged.errors import RequestError, whole
from kv_cache_rl.paged.kv_cache import KVCache
from kv_cache_rl.paged.measure.quality import SCHEMES, Bits, fit_law, qualities, windows
from kv_cache_rl.paged.measure.timing import median_seconds, seconds_of
from kv_cache_rl.paged.model import Decoder
from kv_cache_rl.paged.quantised_blocks import KEY_SPAN, QuantisedBlocks, quantise_filled
from kv_cache_rl.paged.sequences import Sequence
from kv_cache_rl.paged.swap import HostPool, PreemptionCosts, recompute, swap_in, swap_out

FP16_BYTES = 2.0
PREFILLS = (64, 128, 256, 512, 1024, 2048)
"""Lengths in tokens of the sequences that the fit of swap and recompute seconds uses."""
Bar = Callable[[int, int], None]
"""Called with (done, total) after each step."""


@dataclass(frozen=True, slots=True)
class Seconds:
    """Bytes and seconds of one scheme, per token of the model's cache."""

    bytes_ratio: float
    """Bytes of the store's tensors over those at fp16."""
    encode_s: float
    decode_s: float
    """Gathering quantised blocks, less gathering exact ones."""


@dataclass(frozen=True, slots=True)
class Moves:
    """Seconds to move sequences out and in, and to compute them again; one entry per sequence."""

    tokens: tuple[int, ...]
    """Their lengths."""
    swap_out_s: tuple[float, ...]
    swap_in_s: tuple[float, ...]
    recompute_s: tuple[float, ...]

    @property
    def costs(self) -> list[PreemptionCosts]:
        """The costs of a preemption of each sequence."""
        columns = zip(self.tokens, self.swap_out_s, self.swap_in_s, self.recompute_s, strict=True)
        return [PreemptionCosts(tokens, out + back, anew) for tokens, out, back, anew in columns]


def one_thread() -> None:
    """Limits torch to one thread, so that CPU seconds are those of one core and runs compare."""
    torch.set_num_threads(1)


def memory_gb() -> float:
    """This machine's memory, 10^9 bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def geometry_of(model: Decoder) -> ModelGeometry:
    """The shape of the model's cache, as the simulators describe models."""
    g, weights = model.geometry, sum(w.numel() for w in model.weights.values())
    return ModelGeometry(g.name, g.layers, g.kv_heads, g.head_dim, weights * FP16_BYTES / 1e9)


def filled_cache(model: Decoder, tokens: int, block_tokens: int, seed: int) -> tuple[KVCache, Sequence]:
    """A cache with one sequence of random keys and values; contents do not change the cost."""
    cache, sequence = model.new_cache(blocks_for(tokens, block_tokens), block_tokens), Sequence()
    generator, g = generator_of(seed), model.geometry
    slots = cache.extend(sequence, tokens)
    sequence.tokens = [0] * tokens
    for layer in range(g.layers):
        k, v = (
            torch.randn(tokens, g.kv_heads, g.head_dim, generator=generator).to(model.dtype) for _ in range(2)
        )
        cache.write(layer, slots, k, v)
    return cache, sequence


@torch.no_grad()
def scheme_seconds(
    model: Decoder, bits: Bits, block_tokens: int, tokens: int, repeats: int, seed: int
) -> Seconds:
    """Bytes and seconds of one scheme (bits of keys and values) on a cache of `tokens` tokens.

    The tokens are rounded up to whole groups.
    """
    span = blocks_for(KEY_SPAN, block_tokens)
    tokens = blocks_for(tokens, span * block_tokens) * span * block_tokens
    encoding, (cache, sequence) = [], filled_cache(model, tokens, block_tokens, seed)
    exact, stored = _gather_seconds(cache, sequence, repeats), 0
    for _ in range(repeats):
        cache, sequence = filled_cache(model, tokens, block_tokens, seed)
        store = QuantisedBlocks(cache.pool, len(sequence.blocks), *bits)
        cache.pool.attach(store)
        stored = store.nbytes
        encoding += seconds_of(model.device, partial(quantise_filled, cache, sequence))
    more = _gather_seconds(cache, sequence, repeats) - exact
    fp16 = bytes_per_token(geometry_of(model)) * tokens
    return Seconds(stored / fp16, statistics.median(encoding) / tokens, max(more, 0.0) / tokens)


def _gather_seconds(cache: KVCache, sequence: Sequence, repeats: int) -> float:
    pool, blocks = cache.pool, torch.tensor(sequence.blocks, device=cache.pool.device)
    shape = (len(blocks), pool.block_tokens, pool.kv_heads, pool.head_dim)
    k, v = (torch.empty(shape, dtype=pool.dtype, device=pool.device) for _ in range(2))

    def all_layers() -> None:
        for layer in range(pool.layers):
            pool.gather(layer, blocks, k, v)

    return median_seconds(pool.device, all_layers, repeats)


@torch.no_grad()
def move_seconds(
    model: Decoder, block_tokens: int, lengths: Many[int], repeats: int, seed: int, bar: Bar
) -> Moves:
    """Median swap and recompute seconds of sequences of these lengths, after one unmeasured run."""
    rows = []
    for done, tokens in enumerate(lengths, 1):
        cache, sequence = filled_cache(model, tokens, block_tokens, seed)
        host = HostPool(cache.pool, cache.pool.blocks)
        works = (
            partial(swap_out, cache, host, sequence),
            partial(swap_in, cache, host, sequence),
            partial(cache.release, sequence),
            partial(recompute, model, cache, sequence),
        )
        found = [seconds_of(model.device, *works) for _ in range(repeats + 1)]
        rows.append([statistics.median(column) for column in zip(*found[1:], strict=True)])
        bar(done, len(lengths))
    out, back, _, anew = zip(*rows, strict=True)
    return Moves(tuple(lengths), out, back, anew)


def measure_costs(
    model: Decoder, block_tokens: int = 16, tokens: int = 256, repeats: int = 5, seed: int = 0
) -> PreemptionCosts:
    """Seconds of both ways to get a preempted sequence back, for `scheduler.Scheduler`.

    Raises:
        RequestError: a number is none, or below 1.
    """
    for name, given in (("block_tokens", block_tokens), ("tokens", tokens), ("repeats", repeats)):
        if whole(given, f"{name} {given!r}") < 1:
            raise RequestError(f"{name} {given}; give a whole number from 1 on")
    return move_seconds(model, block_tokens, (tokens,), repeats, seed, lambda done, total: None).costs[0]


def fitted(x: Many[Many[float]], y: Many[float]) -> list[float]:
    """Non-negative coefficients of y ~ x by least squares of the relative error.

    A term with a negative coefficient is dropped.
    """
    a, b = np.array(x, float), np.array(y, float)
    a, kept, found = a / b[:, None], list(range(a.shape[1])), np.zeros(0)
    while kept:
        found = np.linalg.lstsq(a[:, kept], np.ones(len(b)), rcond=None)[0]
        if (found >= 0).all():
            break
        kept.pop(int(found.argmin()))
    answer = [0.0] * a.shape[1]
    for place, value in zip(kept, found if kept else (), strict=True):
        answer[place] = float(value)
    return answer


def host_link(moves: Moves, cache_bytes_per_token: float) -> Link:
    """Fixed seconds and rate of a copy, from the slower direction.

    Two copies at once share one memory, so that each has half the rate.
    """
    slower = [max(pair) for pair in zip(moves.swap_out_s, moves.swap_in_s, strict=True)]
    fixed, per_byte = fitted([(1.0, tokens * cache_bytes_per_token) for tokens in moves.tokens], slower)
    rate = 1 / per_byte if per_byte else 1e15
    return Link("measured", rate, rate / 2, fixed)


@torch.no_grad()
def hardware_profile(
    model: Decoder, moves: Moves, block_tokens: int, repeats: int, seed: int, memory_gb: float
) -> HardwareProfile:
    """Fitted seconds: prefill c0 + c1 n + c2 n^2 / 2, and decoding in batches of 1 to 8."""
    c0, c1, c2 = fitted([(1.0, n, n * n / 2) for n in moves.tokens], moves.recompute_s)
    points = []
    for batch, tokens in ((1, 64), (4, 64), (1, 1024), (4, 512), (8, 512)):
        cache, first = filled_cache(model, tokens, block_tokens, seed)
        grown = model.new_cache(batch * blocks_for(tokens + repeats + 2, block_tokens), block_tokens)
        sequences = [Sequence(list(first.tokens)) for _ in range(batch)]
        for sequence in sequences:
            slots = grown.extend(sequence, tokens)
            for layer in range(model.geometry.layers):
                shape = (-1, model.geometry.kv_heads, model.geometry.head_dim)
                rows = torch.tensor(first.blocks)
                k, v = (x[layer][rows].reshape(shape)[:tokens] for x in (cache.pool.keys, cache.pool.values))
                grown.write(layer, slots, k, v)
        seconds = median_seconds(model.device, partial(model.decode, grown, sequences, [0] * batch), repeats)
        points.append((batch * tokens, seconds))
    fixed, per_token = fitted([(1.0, kv) for kv, _ in points], [seconds for _, seconds in points])
    return HardwareProfile(
        f"measured-{model.geometry.name}", 1, memory_gb, "measured", 1, c0, c1, c2, fixed, per_token
    )


@torch.no_grad()
def calibrate(
    model: Decoder,
    tokens: Many[int],
    name: str,
    source: str,
    rows: int = 16,
    length: int = 512,
    block_tokens: int = 16,
    repeats: int = 5,
    seed: int = 0,
    memory_gb: float = 1.0,
    bar: Callable[[str], Bar] = lambda what: lambda done, total: None,
) -> Calibration:
    """All measurements, as a calibration.

    Args:
        tokens: at least rows x length tokens of a text that the model was not trained on, without
            special tokens; each window gets those that the checkpoint begins a text with.
        bar: called with the name of the next measurement, returns its `Bar`.
    """
    texts = windows(tokens, rows, length, model.tokenizer.opening)
    qualities_, nll = qualities(model, texts, SCHEMES, block_tokens, bar("quality"))
    tick, costs = bar("seconds"), {}
    for done, (scheme, bits) in enumerate(SCHEMES.items(), 1):
        costs[scheme] = scheme_seconds(model, bits, block_tokens, 4 * length, repeats, seed)
        tick(done, len(SCHEMES))
    moves = move_seconds(model, block_tokens, PREFILLS, repeats, seed, bar("swap and recompute"))
    geometry = geometry_of(model)
    per_token = bytes_per_token(geometry)
    pool_per_token = bytes_per_token(geometry, model.dtype.itemsize)
    schemes = {"fp16": Scheme(1.0, 0.0, 0.0, 0.0)}
    for scheme, quality in qualities_.items():
        cost = costs[scheme]
        schemes[scheme] = Scheme(
            cost.bytes_ratio, quality.kl, quality.attention_error, quality.delta_nll,
            cost.encode_s / per_token, cost.decode_s / per_token,
        )  # fmt: skip
    notes = {
        "law": asdict(fit_law(list(qualities_.values()))),
        "exact_nll": nll,
        "windows": rows, "length": length, "block_tokens": block_tokens, "repeats": repeats, "seed": seed,
        "opening": list(model.tokenizer.opening),
        "cache_dtype": str(model.dtype).removeprefix("torch."),
        "moves": {name: list(column) for name, column in asdict(moves).items()},
        "seconds_per_token": {scheme: asdict(cost) for scheme, cost in costs.items()},
    }  # fmt: skip
    profile = hardware_profile(model, moves, block_tokens, repeats, seed, memory_gb)
    return Calibration(name, source, schemes, host_link(moves, pool_per_token), profile, geometry, notes)

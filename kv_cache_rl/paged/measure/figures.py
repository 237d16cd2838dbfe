"""All promised figures, measured, each with its target.

Memory, sharing, speed, preemption and quantisation.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from statistics import geometric_mean
from typing import Any

import torch

from kv_cache_rl.core.geometry import bytes_per_token
from kv_cache_rl.paged.block_pool import BlockPool
from kv_cache_rl.paged.measure.calibrate import geometry_of, host_link, move_seconds, scheme_seconds
from kv_cache_rl.paged.measure.figure import BLOCK_SIZES, Figure, Found, Setup
from kv_cache_rl.paged.measure.memory import beam_sharing, requests_like
from kv_cache_rl.paged.measure.quality import SCHEMES, SMALL_ERROR, fit_law, qualities, windows
from kv_cache_rl.paged.measure.sharing_figures import beams, fragmentation, memory, parallel
from kv_cache_rl.paged.measure.speeds import (
    BATCH,
    BLOCK,
    DIM,
    KV_HEADS,
    decode_ratios,
    loop_ratio,
    tokens_per_second,
    write_ratio,
)
from kv_cache_rl.paged.measure.timing import median_seconds
from kv_cache_rl.paged.quant import BITS


def copy_on_write(setup: Setup) -> Found:
    """How often a block is copied on write, and how long that takes beside decoding a token."""
    requests = requests_like("alpaca", 4, setup.seed)
    rate = beam_sharing(setup.model, setup.text, requests, 4).copies_per_token
    g = setup.model.geometry
    pool = BlockPool(g.layers, 64, 16, g.kv_heads, g.head_dim, setup.model.dtype)
    pool.take(64)
    copy_s = median_seconds(setup.model.device, lambda: [pool.copy(b, b + 32) for b in range(32)], 9) / 32
    token_s = 1 / tokens_per_second(setup.model, setup.text, [(16, 4)], 128, 9)[16, 4]
    figures = [
        Figure("copy on write: copies per decoded token, beam of 4", rate, "copies"),
        Figure("copy on write: one block", 1e6 * copy_s, "us", remark=f"{pool.block_nbytes:,} bytes"),
        Figure("copy on write: share of decoding time, beam of 4", 100 * rate * copy_s / token_s, "%"),
    ]
    return figures, {"copies_per_token": rate, "copy_s": copy_s, "token_s": token_s}


def best_block(rates: Mapping[int, Mapping[int, float]]) -> int:
    """The block size with the highest rate in {block size: {batch: rate}}.

    A block size counts with its geometric mean over the batches.

    >>> best_block({8: {1: 2.0, 16: 2.0}, 16: {1: 1.0, 16: 9.0}})
    16
    """
    return max(rates, key=lambda size: geometric_mean(rates[size].values()))


def throughput(setup: Setup) -> Found:
    """Decoded tokens per second by block size and batch, and the best block size."""
    sizes, batches = setup.choose((8, 16, 32), BLOCK_SIZES[1:]), setup.choose((1, 16), (1, 4, 16))
    context, steps = setup.choose(128, 512), setup.choose(9, 15)
    rates = tokens_per_second(
        setup.model, setup.text, [(size, n) for size in sizes for n in batches], context, steps
    )
    rows = {size: {n: rates[size, n] for n in batches} for size in sizes}
    best = best_block(rows)
    spread = max(rows[s][batches[-1]] for s in sizes) / min(rows[s][batches[-1]] for s in sizes)
    figures = [
        Figure(f"throughput: block {best}, batch {n}, context {context}", rows[best][n], "tokens/s")
        for n in batches
    ] + [
        Figure("throughput: best block size", best, "tokens", remark="geometric mean over the batches"),
        Figure("throughput: best / worst block size, largest batch", spread, "x"),
    ]
    data = {
        "context": context,
        "best_block": best,
        "tokens_per_second": {str(s): {str(n): v for n, v in r.items()} for s, r in rows.items()},
    }
    return figures, data


def attention(setup: Setup) -> Found:
    """Paged attention beside contiguous attention, a loop over blocks, and a plain copy."""
    figures, data, repeats = [], {}, setup.choose(3, 7)
    for tokens in setup.choose((1024,), (1024, 4096)):
        for dtype in (torch.float32, torch.bfloat16):
            for ragged in (False, True):
                plain, grouped = decode_ratios(tokens, ragged, dtype, repeats, setup.seed)
                name = "fp32" if dtype == torch.float32 else "bf16"
                kind = f"{tokens:,} tokens{' ragged' if ragged else ''}, {name}"
                remark = f"{1e3 * plain.ours_s:.0f} ms; x {grouped.times:.2f} of SDPA with grouped query rows"
                figures.append(
                    Figure(
                        f"decode attention: {kind}, of contiguous SDPA",
                        plain.times,
                        "x",
                        high=1.4,
                        remark=remark,
                    )
                )
                data[kind] = {"sdpa": asdict(plain), "grouped": asdict(grouped)}
    loop, write = loop_ratio(1024, setup.choose(3, 5), setup.seed), write_ratio(2048, 4 * repeats, setup.seed)
    figures.append(Figure("decode attention: loop over blocks / ours", loop.times, "x", low=3.0))
    figures.append(Figure("writing a prompt, of a plain copy", write.times, "x", high=4.0))
    return figures, data | {"loop": asdict(loop), "write": asdict(write)}


def preemption(setup: Setup) -> Found:
    """Swapping a sequence out and in, against computing it again.

    Swapping it quantised is estimated from bytes and seconds.
    """
    repeats, lengths = setup.choose(3, 7), setup.choose((128, 512), (128, 512, 2048))
    moves = move_seconds(setup.model, 16, lengths, repeats, setup.seed, lambda done, total: None)
    figures = []
    for cost in moves.costs:
        swap_ms, recompute_ms = 1e3 * cost.swap_s, 1e3 * cost.recompute_s
        remark = f"out and in {swap_ms:.2f} ms, recompute {recompute_ms:.1f} ms: {cost.cheaper}"
        name = f"recompute / swap, {cost.tokens:,} tokens"
        figures.append(Figure(name, cost.recompute_s / cost.swap_s, "x", remark=remark))
    fp16 = bytes_per_token(geometry_of(setup.model))
    link = host_link(moves, fp16 / 2 * setup.model.dtype.itemsize)
    data: dict[str, Any] = {"moves": asdict(moves), "link": asdict(link), "quantised": {}}
    for name, bits in BITS.items():
        found = scheme_seconds(setup.model, (bits, bits), 16, setup.choose(512, 2048), repeats, setup.seed)
        data["quantised"][name] = asdict(found)
        # At a slower link than this, quantising and restoring take less time than the saved bytes
        # would.
        pays = 2 * (1 - found.bytes_ratio) * fp16 / (found.encode_s + found.decode_s)
        remark = f"pays below {pays / 1e6:,.0f} MB/s; the copy here does {link.one_way / 1e6:,.0f} MB/s"
        figures.append(
            Figure(f"quantised swap, estimated: {name}, bytes of fp16", found.bytes_ratio, "", remark=remark)
        )
    return figures, data


def quality(setup: Setup) -> Found:
    """Likelihood and divergence over quantised blocks, and the law between error and divergence."""
    rows, length = setup.choose((4, 256), (24, 512))
    found, nll = qualities(
        setup.model, windows(setup.text, rows, length, setup.model.tokenizer.opening), SCHEMES
    )
    law = fit_law(list(found.values()))
    figures = [
        Figure(
            "quality: int8, |delta NLL|",
            abs(found["int8"].delta_nll),
            "nats",
            high=1e-3,
            remark=f"exact {nll:.4f}",
        ),
        Figure("quality: int4, delta NLL", found["int4"].delta_nll, "nats", high=0.01),
        Figure("quality: int2, delta NLL", found["int2"].delta_nll, "nats"),
    ]
    figures += [
        Figure(
            f"quality: {name}, KL",
            found[name].kl,
            "nats",
            remark=f"attention error {found[name].attention_error:.2e}",
        )
        for name in BITS
    ]
    remark = f"R2 {law.r_squared:.3f}, {law.points} schemes with e up to {SMALL_ERROR}; "
    remark += f"a free exponent would be {law.exponent:.2f}"
    remark += f"; beyond that KL is {law.beyond:.0f} times the law" if law.beyond else ""
    figures.append(Figure("quality: c of KL = c e^2", law.factor, "nats", remark=remark))
    return figures, {
        "schemes": {name: asdict(q) for name, q in found.items()},
        "law": asdict(law),
        "exact_nll": nll,
    }


def gpu(setup: Setup) -> Found:
    """The figures for a GPU; they are not measured."""
    remark = "not measured on a GPU"
    where = f"batch {BATCH}, 4,096 tokens, bf16, {KV_HEADS} heads of {DIM}, block {BLOCK}"
    return [
        Figure(f"GPU: share of the copy bandwidth, {where}", None, "%", low=70.0, remark=remark),
        Figure("GPU: paged, of contiguous attention", None, "x", high=1.15, remark=remark),
    ], {}


PARTS: dict[str, Callable[[Setup], Found]] = {
    "memory": memory,
    "throughput": throughput,
    "fragmentation": fragmentation,
    "beam": beams,
    "parallel": parallel,
    "copy-on-write": copy_on_write,
    "preemption": preemption,
    "attention": attention,
    "quality": quality,
    "gpu": gpu,
}


def run_parts(setup: Setup, parts: list[str]) -> Iterator[tuple[str, list[Figure], dict[str, Any]]]:
    """(part, figures, data behind them) of every named part.

    Raises:
        ValueError: a figure is not a finite number.
    """
    for name in parts:
        figures, data = PARTS[name](setup)
        for figure in figures:
            if figure.value is not None and not math.isfinite(figure.value):
                raise ValueError(f"{figure.name} came out as {figure.value}; a figure has to be a number")
        yield name, figures, data

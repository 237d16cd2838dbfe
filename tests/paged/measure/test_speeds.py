"""Throughput counts the tokens that caches gained; attention errors equal those of dense attention."""

import itertools
import math

import pytest
import torch
from decoders import contents, decoder, prompt

from kv_cache_rl.paged.attention import dense_reference
from kv_cache_rl.paged.measure import figures, quality, sharing_figures, speeds
from kv_cache_rl.paged.measure.calibrate import Moves, Seconds
from kv_cache_rl.paged.measure.memory import Beams
from kv_cache_rl.paged.measure.quality import attention_errors, held_out_tokens
from kv_cache_rl.paged.quant import dequantise, quantise
from kv_cache_rl.paged.sequences import Sequence


def test_a_step_counts_the_tokens_that_the_cache_holds_more_and_these_are_decoded():
    model = decoder()
    text = prompt(model, 40)
    running = speeds.decoding(model, text, 3, 4, 20, 2)
    assert running.step() == 3
    for row, sequence in enumerate(running.sequences):
        alone, own = model.new_cache(8, 4), Sequence()
        model.prefill(alone, own, [*text[row : row + 20], 0])
        assert sequence.length == 21 and torch.allclose(
            contents(running.cache, sequence), contents(alone, own), atol=1e-5
        )


def test_a_rate_is_tokens_by_seconds(monkeypatch):
    model, ticks = decoder(), itertools.count()
    monkeypatch.setattr(speeds, "clock", lambda device: next(ticks) * 0.5)
    assert speeds.tokens_per_second(model, prompt(model, 40), [(4, 1), (8, 3)], 16, 2) == {
        (4, 1): 2.0,
        (8, 3): 6.0,
    }


def test_the_best_block_size_has_the_highest_rates_over_the_batches():
    assert figures.best_block({8: {1: 3.0, 16: 30.0}, 16: {1: 4.0, 16: 40.0}, 32: {1: 1.0, 16: 50.0}}) == 16


def test_the_throughput_part_names_the_best_block_size_and_its_rates(monkeypatch):
    monkeypatch.setattr(
        figures,
        "tokens_per_second",
        lambda model, text, cells, *_: {(b, n): n * (100.0 - b) for b, n in cells},
    )
    found, data = figures.throughput(figures.Setup(decoder(), [], 0, True))
    values = {figure.name: figure.value for figure in found}
    assert values["throughput: best block size"] == data["best_block"] == 8
    assert values["throughput: block 8, batch 16, context 128"] == 16 * 92.0
    assert values["throughput: best / worst block size, largest batch"] == 92 / 68


def test_the_preemption_part_names_the_cheaper_way(monkeypatch):
    monkeypatch.setattr(
        figures, "move_seconds", lambda *_: Moves((128, 512), (1.0, 1.0), (1.0, 1.0), (1.0, 6.0))
    )
    monkeypatch.setattr(figures, "scheme_seconds", lambda *_: Seconds(0.5, 1e-6, 1e-6))
    found, _ = figures.preemption(figures.Setup(decoder(), [], 0, True))
    ways = {figure.name: (figure.value, figure.remark.split(": ")[-1]) for figure in found[:2]}
    assert ways == {
        "recompute / swap, 128 tokens": (0.5, "recompute"),
        "recompute / swap, 512 tokens": (3.0, "swap"),
    }


@pytest.mark.parametrize("part", figures.PARTS)
def test_every_part_of_the_bench_gives_figures_that_are_numbers(shipped, monkeypatch, part):
    # A quarter of a minute of decoding; test_memory has it on a smaller model.
    for module in (figures, sharing_figures):
        monkeypatch.setattr(module, "beam_sharing", lambda *_: Beams(0.5, 0.01))
    monkeypatch.setattr(figures, "decode_ratios", lambda *_: (speeds.Ratio(1.0, 1.0),) * 2)
    monkeypatch.setattr(figures, "loop_ratio", lambda *_: speeds.Ratio(4.0, 1.0))
    monkeypatch.setattr(figures, "write_ratio", lambda *_: speeds.Ratio(1.0, 1.0))
    setup = figures.Setup(shipped, held_out_tokens(shipped, 16_000), 0, True)
    ((name, found, _),) = figures.run_parts(setup, [part])
    assert name == part and found


def test_the_attention_error_is_that_of_dense_attention_over_restored_keys_and_values():
    model = decoder(head_dim=32)
    rows = torch.tensor([prompt(model, 128, 3)])
    wrong = norm = 0.0
    for q, k, v in quality._activations(model, rows):
        q, k, v = q[0, 95:96], k[0, :96], v[0, :96]
        kq = torch.cat((dequantise(quantise(k[:64], 4, 0)), k[64:]))
        vq = torch.cat((dequantise(quantise(v[:64].flatten(1), 4, 1)).view_as(v[:64]), v[64:]))
        exact = dense_reference(q, k, v)
        norm += float(exact.square().sum())
        wrong += float((dense_reference(q, kq, vq) - exact).square().sum())
    assert attention_errors(model, rows, {"int4": (4, 4)})["int4"] == pytest.approx(
        math.sqrt(wrong / norm), rel=1e-3
    )

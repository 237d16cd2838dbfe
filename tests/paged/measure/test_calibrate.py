"""The calibration: fits, bytes, seconds, and a profile that a simulator can take."""

import json

import numpy as np
import pytest
import torch
from decoders import decoder

from kv_cache_rl.core.calibration import Calibration
from kv_cache_rl.core.geometry import bytes_per_token
from kv_cache_rl.paged.measure import calibrate as calibrating
from kv_cache_rl.paged.measure.calibrate import (
    Moves,
    Seconds,
    calibrate,
    fitted,
    geometry_of,
    host_link,
    measure_costs,
    move_seconds,
    scheme_seconds,
    seconds_of,
)
from kv_cache_rl.paged.measure.quality import SCHEMES
from kv_cache_rl.paged.swap import PreemptionCosts


@pytest.fixture(scope="module")
def model():
    return decoder(head_dim=32, vocab=64)


@pytest.fixture(scope="module")
def made(model):
    """A small calibration of a small random decoder."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(64, (2 * 130,), generator=generator).tolist()
    seen = []

    def bar(what):
        return lambda done, total: seen.append((what, done, total))

    patch = pytest.MonkeyPatch()
    patch.setattr(calibrating, "PREFILLS", (32, 64, 128))
    found = calibrate(model, tokens, "mine", "a test", 2, 130, 16, 2, 0, 4.0, bar)
    patch.undo()
    return found, seen


def test_a_calibration_has_every_scheme_and_survives_being_written_down(made):
    found, _ = made
    assert list(found.schemes) == ["fp16", *SCHEMES]
    assert Calibration.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_bytes_count_scales_and_fall_with_the_bits(made):
    schemes = made[0].schemes
    for name, bits in (("int8", 8), ("int4", 4), ("int2", 2)):
        assert bits / 16 < schemes[name].multiplier < bits / 16 + 0.05
    assert schemes["k8v4"].multiplier == pytest.approx(
        (schemes["int8"].multiplier + schemes["int4"].multiplier) / 2
    )


def test_errors_fall_with_the_bits_and_seconds_are_above_zero(made):
    schemes = made[0].schemes
    for better, worse in (("int8", "int4"), ("int4", "int2")):
        assert 0 < schemes[better].attention_error < schemes[worse].attention_error
        assert 0 <= schemes[better].kl < schemes[worse].kl
    assert all(schemes[name].encode_s_per_byte > 0 for name in SCHEMES)
    assert made[0].link.one_way > 0 and made[0].hardware.prefill_c1_s + made[0].hardware.prefill_c0_s > 0


def test_every_long_measurement_reports_how_far_it_is(made):
    last = {}
    for what, done, total in made[1]:
        assert done == last.get(what, (0, 0))[0] + 1
        last[what] = (done, total)
    assert set(last) == {"quality", "seconds", "swap and recompute"}
    assert all(done == total for done, total in last.values())


def test_the_geometry_is_that_of_the_models_cache(model):
    pool = model.new_cache(4, 8).pool
    assert bytes_per_token(geometry_of(model), pool.dtype.itemsize) * 8 == pool.block_nbytes


@pytest.mark.parametrize("bits", [(8, 8), (4, 2)])
def test_the_ratio_is_that_of_the_tensors_stored(model, bits):
    found = scheme_seconds(model, bits, 16, 100, 1, 0)
    assert found.bytes_ratio == pytest.approx(sum(bits) / 32 + 2 / 64, abs=0.002)


def test_swap_and_recompute_are_measured_in_order_of_length(model):
    calibrating.one_thread()  # threads that wait for a busy core count as CPU seconds
    moves = move_seconds(model, 16, (16, 512), 3, 0, lambda done, total: None)
    assert moves.tokens == (16, 512)
    assert moves.recompute_s[1] > moves.recompute_s[0] > 0 and min(moves.swap_out_s + moves.swap_in_s) > 0


def test_coefficients_are_found_and_never_negative():
    n = np.array([64, 128, 256, 512, 1024])
    rows = [(1.0, t, t * t / 2) for t in n]
    assert fitted(rows, 1e-3 + 2e-6 * n + 3e-9 * n * n / 2) == pytest.approx([1e-3, 2e-6, 3e-9])
    bent = fitted(rows, 1e-3 + 2e-6 * n - 1e-9 * n * n / 2)
    assert bent[2] == 0 and min(bent) >= 0


def test_the_link_is_the_slower_direction_and_both_ways_take_turns():
    moves = Moves((100, 1000), (1e-3 + 1e-5, 1e-3 + 1e-4), (1e-6, 1e-5), (1.0, 10.0))
    link = host_link(moves, 10.0)
    assert link.latency_s == pytest.approx(1e-3) and link.one_way == pytest.approx(1e8)
    assert link.both_ways == link.one_way / 2


def test_seconds_are_those_of_each_act_in_turn():
    done = []
    found = seconds_of(
        torch.device("cpu"), lambda: done.append(1), lambda: done.append(sum(range(2_000_000)))
    )
    assert len(found) == 2 and done[0] == 1 and found[1] > found[0] >= 0


def test_every_measured_number_lands_where_it_belongs(model, monkeypatch):
    """Made-up seconds: encoding apart from decoding, and a link of so many bytes in the cache's dtype."""
    monkeypatch.setattr(calibrating, "scheme_seconds", lambda *_: Seconds(0.5, 3e-6, 7e-6))
    copied = 2e-3 + np.array([100, 1000, 2000]) * 1e-6
    moves = Moves((100, 1000, 2000), tuple(copied), tuple(copied / 2), (0.1, 1.0, 2.0))
    monkeypatch.setattr(calibrating, "move_seconds", lambda *_: moves)
    found = calibrate(model, torch.randint(64, (260,)).tolist(), "mine", "a test", 2, 130, 16, 1)
    layers, heads, dim = model.geometry.layers, model.geometry.kv_heads, model.geometry.head_dim
    numbers = 2 * layers * heads * dim
    for name in SCHEMES:
        scheme = found.schemes[name]
        assert scheme.multiplier == 0.5
        assert scheme.encode_s_per_byte == pytest.approx(3e-6 / (2 * numbers))
        assert scheme.decode_s_per_byte == pytest.approx(7e-6 / (2 * numbers))
    assert found.link.one_way == pytest.approx(4 * numbers / 1e-6), "float32: 4 bytes a number"
    assert found.link.latency_s == pytest.approx(2e-3)


def test_costs_of_a_preemption_are_the_medians_of_moving_out_and_in_and_of_computing_again(
    model, monkeypatch
):
    computed, runs = (
        [],
        iter([(9.0, 9.0, 0.0, 9.0), (1.0, 2.0, 0.0, 8.0), (2.0, 3.0, 0.0, 7.0), (1.0, 2.0, 0.0, 5.0)]),
    )
    run = type(model).run
    monkeypatch.setattr(
        type(model),
        "run",
        lambda self, ids, *rest, **more: computed.append(len(ids)) or run(self, ids, *rest, **more),
    )

    def measured(device, *works):
        for work in works:
            work()
        return next(runs)

    monkeypatch.setattr(calibrating, "seconds_of", measured)
    assert measure_costs(model, 16, 128, repeats=3) == PreemptionCosts(128, 3.0, 7.0)
    assert computed == [128] * 4, "swapping computes nothing, recomputing all 128 tokens once"

"""Bytes, seconds and precisions against the published numbers."""

import pytest

from kv_cache_rl.core.geometry import MODELS, bytes_per_token
from kv_cache_rl.core.hardware import HARDWARE, LINKS, kv_capacity_tokens, prefill_seconds
from kv_cache_rl.core.precision import LADDER, PRECISIONS, WORK_CLASSES, tolerated_level

PUBLISHED = {
    "llama-3.1-8b": 131_072,
    "mistral-7b": 131_072,
    "qwen2.5-7b": 57_344,
    "llama-3.1-70b": 327_680,
    "qwen3-8b": 147_456,
    "qwen3-14b": 163_840,
    "qwen3-32b": 262_144,
    "qwen3-coder-30b-a3b": 98_304,
    "llama-2-7b": 524_288,
}


@pytest.mark.parametrize("name", MODELS)
def test_bytes_per_token_are_the_published_ones(name):
    assert bytes_per_token(MODELS[name]) == PUBLISHED[name]


@pytest.mark.parametrize("name", MODELS)
def test_a_quarter_of_the_element_takes_a_quarter_of_the_bytes(name):
    assert bytes_per_token(MODELS[name], 0.5) * 4 == bytes_per_token(MODELS[name])


def test_each_rung_of_the_ladder_halves_the_bytes_and_never_helps_the_answer():
    rungs = [PRECISIONS[name] for name in LADDER]
    assert [rung.bits for rung in rungs] == [16, 8, 4]
    assert [rung.multiplier for rung in rungs] == [1.0, 0.5, 0.25]
    for work in WORK_CLASSES:
        losses = [rung.loss[work] for rung in rungs]
        assert losses == sorted(losses) and losses[0] == 0


@pytest.mark.parametrize("work", WORK_CLASSES)
@pytest.mark.parametrize("level", [1, 2])
def test_the_share_that_does_not_bear_a_rung_is_its_published_loss(work, level):
    draws = [(k + 0.5) / 10_000 for k in range(10_000)]
    share = sum(tolerated_level(work, draw) < level for draw in draws) / len(draws)
    assert share == pytest.approx(PRECISIONS[LADDER[level]].loss[work], abs=1e-4)


@pytest.mark.parametrize(
    ("link", "gigabytes_per_second"),
    [("pcie4", 24.8), ("pcie5", 50), ("pcie4-conservative", 14), ("nvme4", 7), ("sata", 0.55), ("s3", 1)],
)
def test_links_have_the_published_rates_and_are_no_faster_while_both_directions_are_busy(
    link, gigabytes_per_second
):
    assert LINKS[link].one_way == gigabytes_per_second * 1e9
    assert 0 < LINKS[link].both_ways <= LINKS[link].one_way
    assert LINKS["pcie4"].both_ways == 11e9


@pytest.mark.parametrize("profile", HARDWARE.values(), ids=HARDWARE)
def test_prefill_in_one_go_costs_what_it_costs_in_two_up_to_the_fixed_part(profile):
    whole = prefill_seconds(profile, 6_000)
    parts = prefill_seconds(profile, 2_000) + prefill_seconds(profile, 4_000, past=2_000)
    assert parts - whole == pytest.approx(profile.prefill_c0_s)
    assert prefill_seconds(profile, 0, past=9_000) == prefill_seconds(profile, -1) == 0.0


@pytest.mark.parametrize(
    ("name", "tokens", "past", "rate", "tolerance"),
    [
        ("rtx4090-llama-3.1-8b", 2_048, 0, 10_700, 0.08),
        ("rtx4090-llama-3.1-8b", 2_048, 16_384, 6_500, 0.08),
        ("rtx-pro-6000-llama-3.1-8b", 2_048, 8_192, 18_000, 0.08),
        ("8xh100-llama-3.1-70b", 2_048, 0, 2 * 13_800, 0.05),
        ("a100-llama-3.1-8b", 512, 0, 15_000, 0.05),
    ],
)
def test_prefill_rates_stay_near_the_measured_ones(name, tokens, past, rate, tolerance):
    assert tokens / prefill_seconds(HARDWARE[name], tokens, past) == pytest.approx(rate, rel=tolerance)


def test_the_capacity_is_what_the_weights_leave():
    profile, model = HARDWARE["8xh100-llama-3.1-70b"], MODELS["llama-3.1-70b"]
    assert kv_capacity_tokens(profile, model, 0.8) == int((8 * 80e9 * 0.8 - 141.1e9) / 327_680)

"""The stability condition: exact footprints, published numbers, verdicts, and which resource binds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_cache_rl.core.hardware import HARDWARE
from kv_cache_rl.theory.condition import (
    MEMORY,
    TOKEN_BUDGET,
    delta,
    footprint,
    gpus_needed,
    representative_batch_s,
    saturated_tick_s,
    service_rate,
    verdict,
)
from kv_cache_rl.theory.errors import StabilityError
from kv_cache_rl.theory.lengths import (
    PUBLISHED,
    PUBLISHED_CHUNK,
    PUBLISHED_MEMORY,
    sampled_lengths,
    uniform_lengths,
)

A100 = HARDWARE["a100-llama-3.1-8b"]
tokens = st.integers(0, 400)


def plain_footprint(prompt, output, chunk, block=1, up_front=False):
    """Walks through the iterations of one request."""

    def held(count):
        return -(-count // block) * block

    total = filled = 0
    while filled < prompt:
        filled = min(filled + chunk, prompt)
        total += held(prompt + 1) if up_front else held(filled)
    return total + sum(held(prompt + made) for made in range(1, output + 1))


@given(tokens, tokens, st.integers(1, 8), st.integers(1, 20), st.booleans())
def test_the_footprint_is_what_a_walk_through_the_iterations_adds_up(prompt, output, blocks, block, up_front):
    chunk = blocks * block
    assert int(footprint(prompt, output, chunk, block, up_front)) == plain_footprint(
        prompt, output, chunk, block, up_front
    )


def test_footprints_of_columns_are_those_of_their_requests_and_exact_beyond_float_precision():
    prompts, outputs = np.array([[0], [700_001]]), np.array([0, 99_999, 300_000])
    found = footprint(prompts, outputs, 512)
    assert found.shape == (2, 3) and found.dtype == np.int64
    assert found[1, 2] == 512 * 1368 * 1367 // 2 + 700_001 + 300_000 * 700_001 + 300_000 * 300_001 // 2


@pytest.mark.parametrize(
    ("name", "exact"), [("balanced", 1_079_498), ("long-prompt", 770_521), ("long-output", 1_339_880)]
)
def test_enumerated_footprints_are_the_golden_ones_and_the_papers_sample_means_are_within_half_a_percent(
    name, exact
):
    published = PUBLISHED[name]
    mean = uniform_lengths(published.prompt, published.output, PUBLISHED_CHUNK).footprint
    assert round(mean) == exact
    assert abs(mean / published.footprint - 1) < 0.005


@pytest.mark.parametrize(
    ("name", "batch_s"), [("balanced", 0.0373), ("long-prompt", 0.0430), ("long-output", 0.0337)]
)
def test_the_published_predictions_follow_from_the_published_batch_times(name, batch_s):
    published = PUBLISHED[name]
    mean = uniform_lengths(published.prompt, published.output, PUBLISHED_CHUNK).footprint
    found = service_rate(PUBLISHED_MEMORY, batch_s, mean)
    assert found.binding == MEMORY
    assert found.per_s == pytest.approx(published.predicted, rel=0.005)
    assert abs(published.predicted / published.measured - 1) < 0.085


@given(
    st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.sampled_from([1, 4])
)
def test_uniform_means_are_the_means_over_every_pair(s_low, s_more, o_low, o_more, block):
    prompts, outputs = np.arange(s_low, s_low + s_more + 1), np.arange(o_low, o_low + o_more + 1)
    every_s, every_o = np.repeat(prompts, outputs.size), np.tile(outputs, prompts.size)
    of_pairs = sampled_lengths(every_s, every_o, 16, block)
    exact = uniform_lengths((s_low, s_low + s_more), (o_low, o_low + o_more), 16, block)
    assert exact.footprint == pytest.approx(of_pairs.footprint, rel=1e-12)
    assert (exact.longest, exact.prompt, exact.output) == (of_pairs.longest, of_pairs.prompt, of_pairs.output)
    assert exact.squared_prompt == pytest.approx(of_pairs.squared_prompt)


def test_the_mean_of_a_million_samples_approaches_the_exact_one():
    draw = np.random.default_rng(5)
    found = sampled_lengths(draw.integers(10, 1601, 10**6), draw.integers(10, 1601, 10**6))
    assert found.footprint == pytest.approx(1_079_498, rel=0.004)


def test_the_token_budget_binds_where_prompts_are_long_and_answers_short():
    lengths = uniform_lengths((4000, 4000), (1, 1))
    found = service_rate(131_000, 0.03, lengths.footprint, token_budget=512, mean_prompt=lengths.prompt)
    assert found.binding == TOKEN_BUDGET
    assert found.per_s == pytest.approx(512 / 0.03 / 4000)
    assert service_rate(131_000, 0.03, lengths.footprint, 10**9, lengths.prompt).binding == MEMORY


def test_memory_and_budget_meet_where_the_named_resource_changes():
    lengths = uniform_lengths((1000, 1000), (1, 1))
    meets = 131_000 * lengths.prompt / lengths.footprint
    assert (
        service_rate(131_000, 0.03, lengths.footprint, meets * 0.999, lengths.prompt).binding == TOKEN_BUDGET
    )
    assert service_rate(131_000, 0.03, lengths.footprint, meets * 1.001, lengths.prompt).binding == MEMORY


def test_between_stable_and_overloaded_lies_a_gap_of_the_longest_requests_share():
    share = delta(3200, 131_000)
    assert share == pytest.approx(0.0244, abs=1e-4)
    assert [verdict(rate, 3.0, share) for rate in (3.001, 3.0, 2.93, 2.92)] == [
        "overloaded",
        "undecided",
        "undecided",
        "stable",
    ]
    assert verdict(0.0, 3.0, 1.5) == "undecided", (
        "a request longer than the memory is never promised anything"
    )


def test_gpus_are_the_fewest_at_or_below_the_target():
    assert [gpus_needed(rate, 3.0, 0.5) for rate in (0.0, 1.5, 1.5001, 15.0)] == [1, 1, 2, 10]
    assert gpus_needed(0.3, 0.1, 1.0) == 3, "0.3 / 0.1 is a rounding error above 3"


@given(st.floats(0.01, 1e4), st.floats(0.01, 100), st.floats(0.05, 1))
def test_the_gpus_needed_suffice_and_one_fewer_does_not(rate, each, target):
    count = gpus_needed(rate, each, target)
    assert rate <= count * each * target * (1 + 1e-9)
    assert count == 1 or rate > (count - 1) * each * target * (1 - 1e-9)


def test_a_representative_batch_is_the_median_and_the_trimmed_mean_under_a_heavy_tail():
    assert representative_batch_s([3.0, 1.0, 2.0]) == 2.0
    heavy = [1.0] * 8 + [50.0, 90.0]
    assert representative_batch_s(heavy) == pytest.approx((7 * 1.0 + 50.0) / 8)


def test_a_saturated_tick_is_fixed_time_prefill_of_what_arrives_and_one_read_of_the_memory():
    lengths = uniform_lengths((500, 500), (500, 500))
    begun = 100_000 / lengths.footprint
    prefill = begun * (500 * A100.prefill_c1_s + 500**2 / 2 * A100.prefill_c2_s)
    expected = A100.decode_fixed_s + prefill + 100_000 * A100.decode_per_kv_token_s
    assert saturated_tick_s(A100, 100_000, lengths.footprint, lengths.prompt) == pytest.approx(
        expected, rel=1e-12
    )


def test_a_saturated_tick_under_a_token_budget_prefills_the_budget_and_reads_less_than_the_memory():
    lengths = uniform_lengths((2000, 2000), (2, 2))
    found = saturated_tick_s(A100, 100_000, lengths.footprint, lengths.prompt, 1000)
    expected = A100.decode_fixed_s + 0.5 * (
        2000 * A100.prefill_c1_s
        + 2000**2 / 2 * A100.prefill_c2_s
        + lengths.footprint * A100.decode_per_kv_token_s
    )
    assert found == pytest.approx(expected, rel=1e-12)
    # Decoded tokens come out of the same budget: fewer requests begin.
    both = saturated_tick_s(
        A100, 100_000, lengths.footprint, lengths.prompt, 1000, mean_output=lengths.output
    )
    assert (both - A100.decode_fixed_s) / (found - A100.decode_fixed_s) == pytest.approx(2000 / 2002)


def test_unequal_prompts_cost_more_attention_than_equal_ones_of_the_same_mean():
    uneven = sampled_lengths([100, 1900], [100, 100])
    given = (A100, 100_000, uneven.footprint, uneven.prompt)
    assert saturated_tick_s(*given, mean_squared_prompt=uneven.squared_prompt) > saturated_tick_s(*given)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: footprint(-1, 5), "prompt has -1; the least is 0"),
        (lambda: footprint(1.5, 5), "whole numbers"),
        (lambda: footprint(math.nan, 5), "whole numbers"),
        (lambda: footprint(5, 2**40), "the most is"),
        (lambda: footprint(5, 5, 0), "at least 1"),
        (lambda: footprint(5, 5, 100, 16), "make the chunk a multiple"),
        (lambda: footprint(5, 5, 10**23), "both are at most 2147483648 tokens"),
        (lambda: uniform_lengths((5, 4), (1, 1)), "give the smaller one"),
        (lambda: sampled_lengths([1, 2], [1]), "2 prompts and 1 outputs"),
        (lambda: sampled_lengths([], []), "at least one request"),
        (lambda: service_rate(0, 0.1, 5), "memory_tokens is 0"),
        (lambda: service_rate(10, math.nan, 5), "batch_s is nan"),
        (lambda: service_rate(10, 0.1, 5, token_budget=0), "give a budget above 0"),
        (lambda: gpus_needed(1, 1, 0), "target_utilisation is 0"),
        (lambda: gpus_needed(math.inf, 1), "arrival_rate is inf"),
        (lambda: representative_batch_s([]), "at least one"),
        (lambda: representative_batch_s([1.0, 0.0]), "above 0"),
    ],
)
def test_what_the_condition_cannot_take_is_refused_with_a_remedy(call, words):
    with pytest.raises(StabilityError, match=words):
        call()


@pytest.mark.parametrize(
    "case", [(-1.0, 4.0, 0.02), (4.0, math.nan, 0.02), (math.nan, 4.0, 0.02), (4.0, 4.0, -1.0)]
)
def test_no_load_is_called_stable_by_a_number_that_is_none(case):
    with pytest.raises(StabilityError, match="must be numbers from 0 on"):
        verdict(*case)

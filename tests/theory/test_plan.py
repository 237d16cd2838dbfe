"""How many GPUs a traffic needs."""

import math

import pytest

from kv_cache_rl.core.hardware import HARDWARE
from kv_cache_rl.theory.condition import service_rate
from kv_cache_rl.theory.errors import StabilityError
from kv_cache_rl.theory.lengths import sampled_lengths
from kv_cache_rl.theory.plan import as_json, plan

A100 = HARDWARE["a100-llama-3.1-8b"]
EIGHT = HARDWARE["8xh100-llama-3.1-70b"]


def planned(prompts=(1000, 3000), outputs=(200, 400), **changes):
    settings = {"arrival_rate": 10.0, "hardware": A100, "memory_tokens": 100_000}
    return plan(prompts, outputs, **(settings | changes))


def test_the_plan_is_the_condition_applied_to_the_mean_lengths():
    found = planned(target_utilisation=0.5, peak_rate=30.0, gpus=3)
    lengths = sampled_lengths([1000, 3000], [200, 400])
    rate = service_rate(100_000, found.plain.batch_s, lengths.footprint, 2048, lengths.prompt)
    assert found.plain.rate == rate
    assert found.plain.gpus == math.ceil(10 / (0.5 * rate.per_s))
    assert found.plain.peak_gpus == math.ceil(30 / (0.5 * rate.per_s))
    assert found.plain.rho == pytest.approx(10 / (3 * rate.per_s))
    assert found.delta == pytest.approx(0.034)


def test_a_chunk_is_never_larger_than_the_budget_of_an_iteration():
    """1,000 tokens at 16 an iteration: 62 chunks that are held on, the prompt, and 50 growing answers."""
    found = planned([1000], [50], token_budget=16, chunk=4096, histories=[0])
    assert found == planned([1000], [50], token_budget=16, chunk=16, histories=[0])
    assert found.lengths.footprint == 16 * 62 * 63 // 2 + 1000 + 50 * 1000 + 50 * 51 // 2


def test_the_gpus_it_asks_for_are_stable_at_full_target_and_one_fewer_is_not():
    needed = planned(target_utilisation=0.9).plain.gpus
    assert planned(gpus=needed).plain.verdict == "stable"
    assert planned(gpus=needed).plain.rho <= 0.9 < planned(gpus=needed - 1).plain.rho
    assert planned(gpus=1).plain.verdict == "overloaded"


def test_the_binding_resource_changes_with_the_budget():
    assert planned().plain.rate.binding == "memory"
    assert planned(token_budget=64).plain.rate.binding == "token budget"
    assert planned(token_budget=64).plain.gpus > planned().plain.gpus


def test_gpus_are_counted_in_whole_services():
    found = planned(hardware=EIGHT, gpus=20, arrival_rate=60.0)
    assert found.plain.gpus % 8 == 0
    assert found.plain.rho == pytest.approx(60.0 / (2 * found.plain.rate.per_s)), (
        "twenty GPUs are two services of eight"
    )


def test_requests_longer_than_the_memory_are_counted_and_left_out():
    found = planned(prompts=(1000, 99_990), outputs=(200, 11))
    assert (found.requests, found.too_long) == (2, 1)
    assert found.lengths == sampled_lengths([1000], [200])
    assert planned(prompts=(1000, 99_990), outputs=(200, 10)).too_long == 0


def test_histories_spare_gpus_and_none_spare_nothing():
    found = planned(histories=(900, 2500), arrival_rate=50.0)
    assert found.history_share == pytest.approx(0.85)
    assert found.cached.gpus < found.plain.gpus
    nothing = planned(histories=(0, 0))
    assert nothing.cached.rate.per_s == pytest.approx(nothing.plain.rate.per_s)
    assert nothing.cached.batch_s == pytest.approx(nothing.plain.batch_s)
    assert planned().cached is None and planned().history_share is None


def test_json_holds_numbers_only_and_none_for_what_is_not_known():
    found = as_json(planned())
    assert (
        found["gpus_needed_at_peak"],
        found["rho"],
        found["verdict"],
        found["with_all_prefixes_found"],
    ) == (None,) * 4
    assert found["gpus_needed"] == planned().plain.gpus
    assert as_json(planned(histories=(1, 1), gpus=1))["with_all_prefixes_found"]["verdict"] == "overloaded"
    assert as_json(planned(token_budget=math.inf))["budget_rate"] is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"memory_tokens": 1000},
            "none of 2 requests fits: the shortest has 1200 tokens, the memory holds 1000",
        ),
        ({"prompts": (), "outputs": ()}, "none of 0 requests"),
        ({"arrival_rate": 0.0}, "arrival_rate is 0.0"),
        ({"hardware": EIGHT, "gpus": 7}, "7 GPUs are fewer than the 8"),
        ({"target_utilisation": 1.5}, "target_utilisation is 1.5"),
    ],
)
def test_what_cannot_be_planned_is_refused_with_a_remedy(changes, words):
    with pytest.raises(StabilityError, match=words):
        planned(**changes)

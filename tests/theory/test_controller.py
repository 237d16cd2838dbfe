"""The controller: the seed's interface and invariant, its three modes, and each of the seed's faults."""

import dataclasses
import inspect
import math
import pickle
import re
import time
from collections import deque
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_cache_rl.theory import flow as rates
from kv_cache_rl.theory.condition import footprint
from kv_cache_rl.theory.controller import MODES, QueueingController
from kv_cache_rl.theory.errors import StabilityError
from kv_cache_rl.theory.queueing import QueueingConfig, StabilityState

modes = pytest.mark.parametrize("mode", MODES)


def watched(mode="seed", rate=10.0, service_ms=2000.0, blocks=40.0, seconds=600, prompt=500, config=None):
    """A controller that saw a steady stream: 10/s of 2 s and 40 blocks hold 800 blocks."""
    controller = QueueingController(config, mode)
    for count in range(int(seconds * rate)):
        now = count / rate
        controller.record_request_arrival(now, prompt, "a")
        # Half a gap later: right behind an arrival the rate is at its highest.
        controller.record_request_completion(now + 0.5 / rate, service_ms, blocks, "a")
    return controller


def declared(mode="reserve", config=None):
    """2/s of 5 s and 30 blocks: 300 blocks on average, 345 with the margin."""
    return QueueingController(config, mode, arrival_rate=2.0, service_s=5.0, blocks=30.0)


def test_the_settings_and_the_state_are_the_seeds():
    expected = {
        "window_seconds": 60,
        "safety_margin": 1.15,
        "block_size": 16,
        "head_dim": 128,
        "num_kv_heads": 8,
    }
    expected |= {"bytes_per_element": 2.0, "min_eviction_interval_ms": 100}
    found = dataclasses.asdict(QueueingConfig())
    assert {name: found[name] for name in expected} == expected
    fields = "arrival_rate_lambda service_rate_mu mean_blocks_per_request utilization_rho is_stable"
    fields += " lambda_critical minimum_stable_blocks stability_margin_pct"
    assert [field.name for field in dataclasses.fields(StabilityState)] == fields.split()
    assert QueueingConfig().block_bytes_per_layer == 16 * 2 * 8 * 128 * 2


@modes
def test_before_ten_completions_it_assumes_what_the_seed_assumes(mode):
    controller = QueueingController(mode=mode)
    for _ in range(9):
        controller.record_request_arrival(0.0, 900)
        controller.record_request_completion(0.0, 60_000.0, 500)
    state = controller.compute_stability_state(10, 100)
    assert (state.arrival_rate_lambda, state.mean_blocks_per_request) == (0.1, 1.0)
    assert state.service_rate_mu == 100.0


def test_seed_mode_asks_littles_law_times_the_margin_to_be_free():
    state = watched("seed").compute_stability_state(100, 1000)
    assert state.minimum_stable_blocks == 920
    assert state.utilization_rho == pytest.approx(0.8, rel=1e-4)
    assert state.arrival_rate_lambda / state.lambda_critical == pytest.approx(0.8, rel=1e-4)
    assert state.stability_margin_pct == pytest.approx(20, abs=0.01)


def test_reserve_mode_asks_only_for_what_active_requests_do_not_hold_already():
    controller = declared()
    assert controller.get_eviction_target_blocks(0, 1000, 0, 0.0, active=300) == 45
    assert declared().get_eviction_target_blocks(0, 1000, 0, 0.0, active=345) == 0
    assert declared("seed").get_eviction_target_blocks(0, 1000, 0, 0.0, active=300) == 345


def test_reserve_mode_without_being_told_takes_requests_in_flight_to_hold_a_mean_each():
    controller = declared()
    for _ in range(4):
        controller.record_request_arrival(0.0, 100)
    state = controller.compute_stability_state(500, 1000)
    load = state.arrival_rate_lambda * 5.0 * 30.0 * 1.15
    assert state.minimum_stable_blocks == math.ceil(load) - 4 * 30
    assert controller.compute_stability_state(950, 1000).minimum_stable_blocks == math.ceil(load) - 50, (
        "no more than is in use"
    )


def test_paper_mode_measures_the_footprint_and_judges_by_the_longest_request():
    config = QueueingConfig(batch_seconds=0.0373)
    controller = QueueingController(config, "paper")
    draw = np.random.default_rng(2)
    prompts, outputs = draw.integers(10, 1601, 20_000), draw.integers(10, 1601, 20_000)
    for count, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        controller.record_request_arrival(count * 0.001, prompt)
        controller.record_request_completion(count * 0.001, 30_000.0, -(-int(prompt + output) // 16))
    total = 131_000 // 16
    state = controller.compute_stability_state(0, total)
    memory = total * 16
    seen = footprint(prompts, outputs, 512).mean()
    assert state.service_rate_mu == pytest.approx(memory / (0.0373 * seen), rel=0.005)
    assert state.lambda_critical == pytest.approx(state.service_rate_mu * (1 - 3200 / memory), rel=0.01)
    assert state.utilization_rho > 100 and not state.is_stable


def test_paper_mode_leaves_a_gap_between_stable_and_overloaded_where_it_does_not_promise():
    controller = watched(
        "paper", rate=2.0, blocks=60.0, prompt=500, config=QueueingConfig(batch_seconds=0.05)
    )
    state = controller.compute_stability_state(0, 300)
    assert state.lambda_critical == pytest.approx(state.service_rate_mu * (1 - 60 / 300))
    assert state.is_stable == (state.arrival_rate_lambda < state.lambda_critical)


blocks = st.integers(1, 3000)


@settings(max_examples=200)
@given(blocks, st.floats(0, 1), st.integers(0, 500), st.sampled_from(MODES), st.integers(0, 3000))
def test_when_it_acts_the_minimum_is_free_afterwards_even_after_the_caller_took_what_it_asked_for(
    total, share, requested, mode, active
):
    free = int(total * share)
    controller = declared(mode)
    minimum = 345 if mode == "seed" else min(max(345 - active, 0), total)
    target = controller.get_eviction_target_blocks(free, total, requested, 0.0, active=active)
    assert 0 <= target <= total - free
    left = free + target - requested
    if target:
        assert left >= minimum or free + target == total
    else:
        assert left >= minimum or free == total


def test_it_frees_no_more_than_is_needed():
    assert declared("seed").get_eviction_target_blocks(340, 1000, 0, 0.0) == 5
    assert declared("seed").get_eviction_target_blocks(340, 1000, 7, 0.0) == 12
    assert declared("seed").get_eviction_target_blocks(352, 1000, 7, 0.0) == 0


@modes
def test_no_second_eviction_happens_within_the_interval_and_the_decision_says_how_long_to_wait(mode):
    controller = declared(mode)
    assert controller.get_eviction_target_blocks(0, 1000, 0, 5.0, active=0) > 0
    throttled = controller.eviction_decision(0, 1000, 900, 5.04, active=0)
    assert (throttled.blocks, throttled.wait_ms) == (0, pytest.approx(60.0))
    assert "throttled" in throttled.reason and "60.000 ms" in throttled.reason
    assert controller.eviction_decision(0, 1000, 0, 5.04 + throttled.wait_ms / 1000, active=0).blocks > 0


def test_asking_for_nothing_does_not_start_the_interval():
    controller = declared("seed")
    assert controller.eviction_decision(900, 1000, 0, 0.0).blocks == 0
    assert controller.eviction_decision(0, 1000, 0, 0.0).blocks == 345


def test_a_minimum_beyond_the_memory_frees_all_and_says_so():
    decision = declared("seed").eviction_decision(10, 200, 0, 0.0)
    assert decision.blocks == 190
    assert "345 are wanted of 200" in decision.reason


def test_now_is_the_last_recorded_time_and_no_wall_clock():
    controller = watched(rate=10.0, seconds=60)
    first = controller.compute_stability_state(0, 1000)
    time.sleep(0.01)
    assert controller.compute_stability_state(0, 1000) == first
    assert (
        controller.compute_stability_state(0, 1000, 60.0 + 60.0).arrival_rate_lambda
        < 0.6 * first.arrival_rate_lambda
    )
    assert controller.compute_stability_state(0, 1000) == first, "asking about another time moves no clock"


def test_it_is_a_value_that_pickles_and_two_of_them_share_nothing():
    controller, other = watched(seconds=60), QueueingController()
    copy = pickle.loads(pickle.dumps(controller))
    assert copy.compute_stability_state(5, 100) == controller.compute_stability_state(5, 100)
    copy.record_request_arrival(1e4)
    assert copy.compute_stability_state(5, 100) != controller.compute_stability_state(5, 100)
    assert other.compute_stability_state(5, 100) == QueueingController().compute_stability_state(5, 100)


# The seed's faults, one by one.


@modes
def test_fault_it_can_report_instability(mode):
    state = watched(mode, rate=50.0, seconds=120).compute_stability_state(0, 1000)
    assert state.utilization_rho > 3
    assert not state.is_stable
    assert state.stability_margin_pct < -200


def test_fault_bits_and_metrics_come_from_the_real_memory():
    controller = watched()
    for total, bits in ((2000, 16), (1000, 8), (900, 4), (700, 2)):
        controller.compute_stability_state(1, total)
        assert controller.get_recommended_quantization_bits() == bits
        rho = float(re.search(r"^queueing_utilization_rho (\S+)", controller.export_metrics(), re.M)[1])
        assert rho == pytest.approx(800 / total, rel=1e-3)
        assert rates.bits_for(rho) == bits
    assert controller.get_recommended_quantization_bits(total=10**6) == 16


def test_fault_nothing_falls_back_on_tokens_that_are_called_blocks():
    cold = QueueingController()
    assert cold.compute_stability_state(0, 100).mean_blocks_per_request == 1.0
    small = watched(blocks=3.0)
    assert small.compute_stability_state(0, 100).mean_blocks_per_request == pytest.approx(3.0)


def test_fault_nothing_is_kept_per_request():
    controller = watched("paper", seconds=1)
    before = len(pickle.dumps(controller))
    for count in range(20_000):
        controller.record_request_arrival(100 + count, 7, f"agent {count}")
        controller.record_request_completion(100 + count, 5.0, 7, f"agent {count}")
    assert len(pickle.dumps(controller)) - before < 64


def test_fault_an_arrival_costs_the_same_after_many_of_them():
    controller = watched(seconds=1)

    def seconds_for(start):
        began = time.thread_time()
        for count in range(5000):
            controller.record_request_arrival(start + count * 1e-6, 5)
        return time.thread_time() - began

    early = min(seconds_for(10 + turn) for turn in range(10))
    for turn in range(200):
        seconds_for(50 + turn)
    # A cost that grows with the arrivals would be twenty times as high; neighbours on the core double it.
    assert min(seconds_for(300 + turn) for turn in range(10)) < 6 * early


def test_fault_everything_it_estimates_is_read_by_something():
    """Every place of the vector, changed, changes what can be asked."""
    base = declared("paper")
    for count in range(30):
        base.record_request_arrival(count * 0.5, 400 + count)
        base.record_request_completion(count * 0.5, 4000.0 + count, 50 + count % 3)
    base.flow[rates.Flow.UNSEEN] = 0.2

    def asked(flow):
        now = 20.0
        values = [rates.service_variance(flow), rates.blocks_variance(flow), rates.mean_footprint(flow)]
        again = flow.copy()
        rates.arrive(again, now)
        rates.complete(again, now, 1.0, 2.0)
        rates.measure_prompt(again, now, 900.0, 512.0)
        rates.measure_total(again, now, 5.0, 16.0)
        values += [rates.arrival_rate(f, now) for f in (flow, again)] + [
            rates.blocks_to_keep_free(flow, now, 5000, 3)
        ]
        values += [rates.service_seconds(again), rates.blocks_per_request(again), rates.mean_footprint(again)]
        return [*values, max(again[rates.Flow.LONGEST], again[rates.Flow.LONGEST_BEFORE])]

    unread = []
    counters = {rates.Flow.ARRIVALS, rates.Flow.COMPLETIONS, rates.Flow.PRIMED}
    for place in range(rates.FLOW_SIZE):
        changed = base.flow.copy()
        changed[place] = -500.0 if place == rates.Flow.BUCKET_AT else changed[place] * 1.5 + 1000.0
        if place not in counters and asked(changed) == asked(base.flow):
            unread.append(place)
    assert unread == []
    # The counters decide when the estimates are used at all.
    cold = QueueingController().flow
    cold[rates.Flow.COMPLETIONS] = 10
    assert rates.warm(cold) and rates.warm(declared().flow) and not rates.warm(QueueingController().flow)
    rates.arrive(cold, 1.0)
    rates.arrive(cold, 2.0)
    assert rates.arrival_rate(cold, 2.0) > 0.5


def test_fault_no_lock_and_nothing_to_await():
    source = inspect.getsource(inspect.getmodule(QueueingController))
    assert not re.search(r"\b(async|await|Lock|threading|asyncio|time\.time|monotonic)\b", source)


def test_fault_the_memory_is_as_many_servers_as_requests_fit_into_it():
    one = watched().compute_stability_state(0, 40)
    many = watched().compute_stability_state(0, 4000)
    assert one.service_rate_mu == pytest.approx(0.5, rel=1e-6), "one request of 2 s at a time"
    assert many.service_rate_mu == pytest.approx(50.0, rel=1e-6), "a hundred of them"
    assert not one.is_stable and many.is_stable


# Outward faces and bad input.


def test_seven_metrics_are_exported_in_prometheus_form():
    controller = watched()
    controller.compute_stability_state(100, 1000)
    text = controller.export_metrics()
    lines = text.splitlines()
    samples = dict(line.split(" ") for line in lines if not line.startswith("#"))
    assert len(samples) == 7 and all(re.fullmatch(r"queueing_[a-z_]+", name) for name in samples)
    for name in samples:
        assert any(line.startswith(f"# HELP {name} ") for line in lines)
        assert f"# TYPE {name} gauge" in lines
    state = controller.compute_stability_state(100, 1000)
    assert float(samples["queueing_minimum_stable_blocks"]) == state.minimum_stable_blocks == 920
    assert float(samples["queueing_lambda_critical"]) == pytest.approx(state.lambda_critical)
    assert text.endswith("\n")


def test_before_the_memory_is_known_metrics_are_nan_and_precision_is_full():
    controller = QueueingController()
    values = [
        line.split()[1] for line in controller.export_metrics().splitlines() if not line.startswith("#")
    ]
    assert values == ["NaN"] * 7
    assert controller.get_recommended_quantization_bits() == 16


@pytest.mark.parametrize(
    ("rho", "bits"), [(0, 16), (0.699, 16), (0.70, 8), (0.849, 8), (0.85, 4), (0.949, 4), (0.95, 2), (9, 2)]
)
def test_bits_fall_as_utilisation_rises(rho, bits):
    assert rates.bits_for(rho) == bits


def test_a_service_of_no_blocks_or_no_time_is_stable_at_any_rate():
    state = watched(service_ms=0.0).compute_stability_state(0, 10)
    assert state.service_rate_mu == math.inf
    assert (state.utilization_rho, state.is_stable, state.minimum_stable_blocks) == (0.0, True, 0)
    controller = watched(service_ms=0.0)
    controller.compute_stability_state(0, 10)
    assert "queueing_service_rate_mu +Inf" in controller.export_metrics()


@modes
def test_an_event_costs_no_more_than_a_few_lines_of_python(mode):
    """200,000 a second on a core that calls a method of three lines 2,000,000 times a second."""
    controller, recent, counts = watched(mode, seconds=2), deque(maxlen=100), {}

    def three_lines(now: float, tokens: int, who: str) -> None:
        recent.append((now, tokens))
        counts[who] = counts.get(who, 0) + 1
        counts["mean"] = 0.9 * counts.get("mean", 0.0) + 0.1 * tokens

    def ours(now: float) -> None:
        controller.record_request_arrival(now, 500, "a")
        controller.record_request_completion(now, 2000.0, 40, "a")

    def seconds(turn: int, call: Callable[[float], None]) -> float:
        began = time.process_time()
        for count in range(10_000):
            call(10.0 * (turn + 1) + count * 1e-4)
        return time.process_time() - began

    plain = min(seconds(turn, lambda now: three_lines(now, 500, "a")) for turn in range(3))
    assert min(seconds(turn, ours) for turn in range(3)) < 2 * 10 * plain


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: c.record_request_arrival(math.nan), "the time is nan"),
        (lambda c: c.record_request_arrival(1.0, -5), "token_count is -5"),
        (lambda c: c.record_request_completion(math.inf, 1.0, 1), "the time is inf"),
        (lambda c: c.record_request_completion(1.0, -1.0, 1), "service_time_ms is -1.0"),
        (lambda c: c.record_request_completion(1.0, 1.0, math.nan), "blocks_consumed nan"),
        (lambda c: c.compute_stability_state(5, 4), "5 of 4 blocks are free"),
        (lambda c: c.compute_stability_state(0, 0), "total above 0"),
        (lambda c: c.compute_stability_state(-1, 4), "-1 of 4"),
        (lambda c: c.compute_stability_state(1, 4, math.nan), "the time is nan"),
        (lambda c: c.eviction_decision(1, 4, -1), "requested is -1"),
        (lambda c: c.eviction_decision(1, 4, 1, active=-2), "active is -2"),
        (
            lambda c: QueueingController(mode="best"),
            "unknown mode 'best'; use one of seed, reserve, paper",
        ),
        (lambda c: QueueingController(arrival_rate=1.0), "declared together"),
        (lambda c: QueueingConfig(window_seconds=0), "window_seconds is 0"),
        (lambda c: QueueingConfig(safety_margin=math.nan), "safety_margin is nan"),
        (lambda c: QueueingConfig(block_size=0), "block_size is 0"),
        (lambda c: QueueingConfig(block_size=1.5), "whole number of tokens"),
        (lambda c: QueueingConfig(min_eviction_interval_ms=-1), "give 0 or more"),
        (lambda c: QueueingConfig(block_size=True), "block_size is True; give a finite number above 0"),
        (
            lambda c: QueueingConfig(window_seconds="60"),
            "window_seconds is '60'; give a finite number above 0",
        ),
        (lambda c: QueueingConfig(head_dim=None), "head_dim is None"),
        (lambda c: QueueingConfig(safety_margin=10**400), "safety_margin is 1000"),
        (lambda c: QueueingController({"window_seconds": 5}), "give a QueueingConfig, or None"),
        (lambda c: QueueingController(arrival_rate="2", service_s=1.0, blocks=1.0), "arrival_rate is '2'"),
        (lambda c: QueueingController(arrival_rate=2.0, service_s=None, blocks=[1]), "declared together"),
        (lambda c: QueueingController(arrival_rate=2.0, service_s=1.0, blocks=[1]), r"blocks is \[1\]"),
        (lambda c: c.record_request_arrival("1"), "the time is '1'"),
        (lambda c: c.record_request_arrival(1.0, "5"), "token_count is '5'"),
        (lambda c: c.record_request_completion(1.0, None, 1), "service_time_ms is None"),
        (lambda c: c.compute_stability_state("1", 4), "'1' of 4 blocks are free"),
        (lambda c: c.compute_stability_state(1, 4, "now"), "the time is 'now'"),
        (lambda c: c.eviction_decision(1, 4, None), "requested is None"),
        (lambda c: c.eviction_decision(1, 4, 1, active="2"), "active is '2'"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(call, words):
    controller = declared()
    before = pickle.dumps(controller)
    with pytest.raises(StabilityError, match=words):
        call(controller)
    assert pickle.dumps(controller) == before

"""The estimates in one vector: what they converge to, how they forget, and what they cost."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_cache_rl.jit import uncounted
from kv_cache_rl.theory import flow as f
from kv_cache_rl.theory.condition import footprint
from kv_cache_rl.theory.errors import StabilityError
from kv_cache_rl.theory.flow import arrival_rate, arrive, blocks_to_keep_free, complete, new_flow, utilisation


def primed(**changes):
    return new_flow(
        **(
            {"window_s": 60.0, "margin": 1.15, "arrival_rate": 2.0, "service_s": 5.0, "blocks": 30.0}
            | changes
        )
    )


def warmed(window_s=60.0, service_s=1.0, blocks=1.0):
    """A flow without declared rates, with ten completions at time 0."""
    flow = new_flow(window_s)
    for _ in range(10):
        complete(flow, 0.0, service_s, blocks)
    return flow


def test_before_ten_completions_the_seeds_assumptions_hold_and_after_them_what_was_seen():
    flow = new_flow()
    for second in range(10):
        assert (arrival_rate(flow, second), f.service_seconds(flow), f.blocks_per_request(flow)) == (
            0.1,
            1.0,
            1.0,
        )
        arrive(flow, float(second))
        complete(flow, second + 0.5, 3.0, 40.0)
    assert arrival_rate(flow, 9.0) == pytest.approx(1.0, rel=0.08)
    assert f.service_seconds(flow) == pytest.approx(3.0)
    assert f.blocks_per_request(flow) == pytest.approx(40.0)


def test_the_arrival_rate_of_a_poisson_stream_is_unbiased_when_asked_at_any_time():
    draw = np.random.default_rng(11)
    asked = []
    for _ in range(200):
        flow, now = primed(window_s=10.0), 0.0
        for gap in draw.exponential(0.5, 200):
            now += gap
            arrive(flow, now)
        asked.append(arrival_rate(flow, now + draw.exponential(0.5)))
    # Variance of an exponential window over a Poisson stream: rate / (2 window).
    assert np.mean(asked) == pytest.approx(2.0, abs=4 * math.sqrt(2.0 / 20 / 200))
    assert np.std(asked) == pytest.approx(math.sqrt(2.0 / 20), rel=0.25)


def test_an_unprimed_rate_is_not_dragged_down_by_the_time_before_the_first_arrival():
    flow = warmed()
    for count in range(30):
        arrive(flow, 1000.0 + count * 0.1)
    assert arrival_rate(flow, 1002.9) == pytest.approx(10.0, rel=0.01)


@given(st.floats(0, 500), st.floats(0, 500))
def test_silence_lowers_the_rate_by_the_window_and_never_below_zero(before, more):
    flow = primed()
    first, second = arrival_rate(flow, before), arrival_rate(flow, before + more)
    assert 0 < second <= first
    assert second == pytest.approx(first * math.exp(-more / 60.0))


def test_asking_changes_nothing():
    flow = primed()
    arrive(flow, 1.0)
    kept = flow.copy()
    for now in (2.0, 500.0, 3.0):
        arrival_rate(flow, now), utilisation(flow, now, 100), blocks_to_keep_free(flow, now, 100, 5)
    assert np.array_equal(flow, kept)


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0.01, 100)), min_size=1, max_size=40))
def test_mean_and_variance_of_service_are_those_weighted_by_the_window(completions):
    flow, now, seen = new_flow(20.0), 0.0, []
    for gap, service_s in completions:
        now += gap
        complete(flow, now, service_s, 2.0 * service_s)
        seen.append((now, service_s))
    weights = np.array([math.exp(-(now - at) / 20.0) for at, _ in seen])
    values = np.array([value for _, value in seen])
    mean = np.average(values, weights=weights)
    assert flow[f.Flow.SERVICE_MEAN] == pytest.approx(mean, rel=1e-9)
    assert flow[f.Flow.BLOCKS_MEAN] == pytest.approx(2 * mean, rel=1e-9)
    variance = np.average((values - mean) ** 2, weights=weights)
    assert f.service_variance(flow) == pytest.approx(variance, rel=1e-6, abs=1e-9 * mean**2)
    assert f.blocks_variance(flow) == pytest.approx(4 * variance, rel=1e-6, abs=1e-9 * mean**2)


def test_old_service_times_are_forgotten_with_the_window():
    flow, now = primed(service_s=50.0), 0.0
    for _ in range(600):
        now += 1.0
        complete(flow, now, 2.0, 7.0)
    assert f.service_seconds(flow) == pytest.approx(2.0, rel=0.001)


def test_declared_means_weigh_as_much_as_ten_completions():
    flow = primed(service_s=4.0, blocks=10.0)
    for _ in range(10):
        complete(flow, 0.0, 8.0, 20.0)
    assert f.service_seconds(flow) == pytest.approx(6.0)
    assert f.blocks_per_request(flow) == pytest.approx(15.0)


def test_the_utilisation_of_declared_rates_is_load_over_servers_and_is_not_clamped():
    # 2/s of 5 s hold 10 requests of 30 blocks; 600 blocks are 20 such servers.
    assert utilisation(primed(), 0.0, 600) == pytest.approx(0.5)
    assert utilisation(primed(), 0.0, 100) == pytest.approx(3.0)


def test_a_server_that_is_simulated_agrees_with_littles_law():
    """Requests in service at a random time, by arrivals and departures, against lambda E[S] as estimated."""
    draw = np.random.default_rng(3)
    arrivals = np.cumsum(draw.exponential(0.1, 40_000))
    service = draw.gamma(2.0, 1.0, arrivals.size)
    events = sorted(
        [(t, 0, 0.0) for t in arrivals] + [(t + s, 1, s) for t, s in zip(arrivals, service, strict=True)]
    )
    flow, held, area, last = primed(window_s=500.0, arrival_rate=1.0, service_s=9.0, blocks=3.0), 0, 0.0, 0.0
    for now, ended, seconds in events:
        if now > 3900:
            break
        area, last = area + held * (now - last) * (now > 1000), now
        if ended:
            complete(flow, now, seconds, 3.0)
        else:
            arrive(flow, now)
        held += -1 if ended else 1
    mean_held = area / (last - 1000)
    assert utilisation(flow, last, 3) == pytest.approx(mean_held, rel=0.06)


@pytest.mark.parametrize(
    ("active", "total", "free"),
    [(0, 1000, 345), (100, 1000, 245), (345, 1000, 0), (900, 1000, 0), (0, 200, 200), (100, 245, 245)],
)
def test_reserve_keeps_what_the_load_will_hold_less_what_is_active_within_the_memory(active, total, free):
    # ceil(2 * 5 * 30 * 1.15) = 345
    assert blocks_to_keep_free(primed(), 0.0, total, active) == free


def test_a_product_that_floats_push_over_an_integer_is_that_integer():
    flow = primed(arrival_rate=0.1, service_s=3.0, blocks=10.0, margin=1.0)
    assert f.blocks_in_use(flow, 0.0) > 3.0
    assert f.minimum_blocks(flow, 0.0) == 3


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 1500)), min_size=1, max_size=30))
def test_the_measured_footprint_is_the_mean_footprint_though_no_request_is_remembered(requests):
    flow = new_flow(1e9)
    for prompt, _ in requests:
        f.measure_prompt(flow, 0.0, float(prompt), 512.0)
    for prompt, output in reversed(requests):
        f.measure_total(flow, 0.0, float(prompt + output), 1.0)
    expected = footprint([p for p, _ in requests], [o for _, o in requests], 512).mean()
    assert f.mean_footprint(flow) == pytest.approx(expected, rel=1e-9)


def test_totals_known_in_blocks_only_are_taken_as_half_a_block_short_on_average():
    flow = new_flow(1e9)
    totals = np.arange(16 * 100 + 1, 16 * 101 + 1)
    f.measure_total(flow, 0.0, 101.0, 16.0)
    assert flow[f.Flow.TOTALS_PART] == pytest.approx((totals * (totals + 1) / 2).mean(), rel=1e-12)


def test_the_longest_request_is_forgotten_after_two_windows():
    flow = new_flow(10.0)
    f.measure_total(flow, 0.0, 900.0, 1.0)
    for now, longest in ((5.0, 900), (11.0, 900), (20.0, 900), (22.0, 3), (60.0, 3)):
        f.measure_total(flow, now, 3.0, 1.0)
        assert max(flow[f.Flow.LONGEST], flow[f.Flow.LONGEST_BEFORE]) == longest


@given(st.lists(st.tuples(st.booleans(), st.floats(-10, 100)), max_size=60))
def test_times_in_any_order_leave_every_estimate_finite_and_not_negative(events):
    flow = primed()
    for ended, now in events:
        complete(flow, now, 1.0, 2.0) if ended else arrive(flow, now)
    for now in (-50.0, 0.0, 1e9):
        assert 0 <= arrival_rate(flow, now) < math.inf
        assert 0 <= blocks_to_keep_free(flow, now, 50, 3) <= 50


@uncounted
def drive(flow, events):
    now = 0.0
    for number in range(events):
        now += 0.01
        arrive(flow, now)
        complete(flow, now, 2.0 + number % 3, 10.0 + number % 5)
    return now


def test_compiled_more_than_a_million_arrivals_and_completions_a_second_leave_a_vector_of_the_same_size():
    flow = new_flow()
    drive(flow, 10)
    began = time.thread_time()
    drive(flow, 500_000)
    assert 10**6 / (time.thread_time() - began) > 10**6
    assert flow.shape == (f.FLOW_SIZE,)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"window_s": 0.0}, "window_s is 0.0"),
        ({"margin": math.nan}, "margin is nan"),
        ({"arrival_rate": -1.0}, "arrival_rate is -1.0"),
        ({"arrival_rate": math.inf}, "arrival_rate is inf"),
        ({"service_s": 0.0}, "service_s is 0.0"),
        ({"blocks": -3.0}, "blocks is -3.0"),
        ({"blocks": None}, "declared together"),
    ],
)
def test_a_flow_refuses_what_is_no_rate_or_length(changes, words):
    with pytest.raises(StabilityError, match=words):
        primed(**changes)

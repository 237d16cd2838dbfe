"""Prefix hits: the service rate they give, and a map with fixed points in a hysteresis loop."""

import heapq
import math
from collections import OrderedDict
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_cache_rl.core.hardware import HARDWARE
from kv_cache_rl.theory import reuse as theory
from kv_cache_rl.theory.condition import footprint, saturated_tick_s, service_rate
from kv_cache_rl.theory.errors import StabilityError
from kv_cache_rl.theory.lengths import sampled_lengths
from kv_cache_rl.theory.reuse import (
    bistable_region,
    fixed_points,
    held_tokens,
    reuse_of,
    service_rate_at,
)

A100 = HARDWARE["a100-llama-3.1-8b"]
DRAW = np.random.default_rng(0)
PROMPTS, OUTPUTS = DRAW.integers(2000, 12_000, 500), DRAW.integers(50, 400, 500)


def agents(think_s=20.0, memory_tokens=426_000, history=0.9, **changes):
    """Long prompts of which nine tenths were sent before: hits are worth far more than they cost."""
    found = reuse_of(
        PROMPTS,
        OUTPUTS,
        (PROMPTS * history).astype(int),
        hardware=A100,
        memory_tokens=memory_tokens,
        think_s=think_s,
        token_budget=2048,
    )
    return replace(found, **changes)


def found_share(reuse, rate, held):
    """The share of the history that the idle memory beside `held` tokens can keep, by bisection."""

    def spare(found):
        return reuse.memory_tokens - held - float(theory._needed(reuse, rate, np.asarray(found)))

    if reuse.memory_tokens <= held:
        return 0.0
    return 1.0 if spare(1.0) >= 0 else theory._bisect(spare, 0.0, 1.0)


def settle(reuse, rate, found):
    """Where the map, iterated, ends."""
    for _ in range(2000):
        before, found = found, found_share(reuse, rate, held_tokens(reuse, rate, found))
        if abs(before - found) < 1e-9:
            break
    return found


def test_without_hits_it_is_the_condition_over_a_saturated_tick():
    lengths = sampled_lengths(PROMPTS, OUTPUTS)
    batch_s = saturated_tick_s(
        A100, 426_000, lengths.footprint, lengths.prompt, 2048, mean_squared_prompt=lengths.squared_prompt
    )
    plain = service_rate(426_000, batch_s, lengths.footprint, 2048, lengths.prompt)
    assert service_rate_at(agents(), 0.0).per_s == pytest.approx(plain.per_s, rel=1e-9)


def test_the_footprint_of_a_request_that_finds_its_history_is_a_walk_through_its_iterations():
    prompt, output, history = 3000, 20, 1700
    filled, walked = history, 0
    while filled < prompt:
        filled = min(filled + 512, prompt)
        walked += filled
    walked += sum(prompt + made for made in range(1, output + 1))
    found = reuse_of([prompt], [output], [history], hardware=A100, memory_tokens=10**5, think_s=1.0)
    assert found.footprint_found == walked
    assert found.footprint == footprint(prompt, output)


def test_the_service_rate_grows_with_every_hit():
    measured = [service_rate_at(agents(), found).per_s for found in np.linspace(0, 1, 11)]
    assert all(after > before for before, after in pairwise(measured))
    assert measured[-1] > 2 * measured[0]


def test_hits_lift_the_token_budget_first_where_it_binds():
    tight = agents(token_budget=300)
    assert [service_rate_at(tight, found).binding for found in (0.0, 1.0)] == ["token budget", "memory"]


def test_held_memory_is_arrivals_times_iterations_times_footprint_and_full_where_the_rate_is_reached():
    reuse = agents()
    rate = 0.5 * service_rate_at(reuse, 0.3).per_s
    held, work, _ = reuse.blend(0.3)
    tick = reuse.fixed_s
    for _ in range(200):
        tick = reuse.fixed_s + rate * tick * (work + reuse.kv_token_s * held)
    assert held_tokens(reuse, rate, 0.3) == pytest.approx(rate * tick * held)
    assert held_tokens(reuse, service_rate_at(reuse, 0.3).per_s, 0.3) == reuse.memory_tokens
    assert held_tokens(reuse, 0.99999 * service_rate_at(reuse, 0.3).per_s, 0.3) == pytest.approx(
        reuse.memory_tokens, rel=1e-3
    )


@pytest.mark.parametrize(("returns", "spare"), [(0.3, 6000), (0.3, 40_000), (0.9, 6000), (0.9, 12_000)])
def test_the_share_found_is_that_of_an_lru_of_idle_caches(returns, spare):
    """Che's approximation against an OrderedDict: caches of 10 tokens, 20 completions/s, thinks of 60 s."""
    draw = np.random.default_rng(1)
    rate, think_s, kept = 20.0, 60.0, 10
    caches: OrderedDict[int, None] = OrderedDict()
    due: list[tuple[float, int]] = []
    now, asked, found = 0.0, 0, 0
    for number in range(60_000):
        now += draw.exponential(1 / rate)
        while due and due[0][0] <= now:
            _, user = heapq.heappop(due)
            if now > 500:
                asked, found = asked + 1, found + (user in caches)
            caches.pop(user, None)
        caches[number] = None
        if draw.random() < returns:
            heapq.heappush(due, (now + draw.exponential(think_s), number))
        while len(caches) * kept > spare:
            caches.popitem(last=False)
    reuse = agents(think_s=think_s, kept=float(kept), returns=returns, memory_tokens=float(spare))
    assert found_share(reuse, rate, 0.0) == pytest.approx(found / asked, abs=0.02)


def test_everything_is_found_where_every_user_returns_before_the_memory_is_full():
    reuse = agents(returns=1.0)
    rate = 0.99 * reuse.memory_tokens / (reuse.kept * reuse.think_s)
    assert found_share(reuse, rate, 0.0) == 1.0
    assert found_share(reuse, 1.1 * rate, 0.0) < 1.0
    assert found_share(reuse, rate, reuse.memory_tokens) == 0.0


rates_of = st.floats(0.05, 5.0)


@given(rates_of, st.sampled_from([5.0, 20.0, 60.0]), st.floats(0.2, 1.0))
def test_fixed_points_reproduce_themselves_and_stable_and_unstable_ones_alternate(rate, think_s, returns):
    reuse = agents(think_s=think_s, returns=returns)
    points = fixed_points(reuse, rate)
    assert points and points[0].stable and points[-1].stable
    assert all(a.stable != b.stable and a.found < b.found for a, b in pairwise(points))
    for point in points:
        assert 0 <= point.found <= 1 and 0 < point.occupancy <= 1
        if point.stable:
            again = found_share(reuse, rate, held_tokens(reuse, rate, point.found))
            assert again == pytest.approx(point.found, abs=1e-3)


def test_the_iterated_map_ends_in_the_stable_points_on_either_side_of_the_unstable_one():
    reuse = agents()
    low, high = bistable_region(reuse)
    rate = (low + high) / 2
    collapsed, unstable, healthy = fixed_points(reuse, rate)
    assert (collapsed.found, collapsed.occupancy) == (0.0, 1.0)
    assert settle(reuse, rate, unstable.found - 0.02) == 0.0
    assert settle(reuse, rate, unstable.found + 0.02) == pytest.approx(healthy.found, abs=1e-6)
    assert healthy.occupancy < 0.5


def test_a_load_that_rises_and_falls_runs_through_a_loop_whose_ends_are_the_region():
    reuse = agents()
    low, high = bistable_region(reuse)
    sweep = np.linspace(0.9 * low, 1.1 * high, 60)
    step = sweep[1] - sweep[0]
    found, up, down = 1.0, [], []
    for rate in sweep:
        found = settle(reuse, rate, found)
        up.append(found)
    for rate in sweep[::-1]:
        found = settle(reuse, rate, found)
        down.append(found)
    down.reverse()
    collapses = sweep[next(at for at, value in enumerate(up) if value == 0.0)]
    recovers = sweep[max(at for at, value in enumerate(down) if value > 0.0)]
    assert collapses == pytest.approx(high, abs=1.5 * step)
    assert recovers == pytest.approx(low, abs=1.5 * step)
    assert collapses > 1.5 * recovers


def test_a_collapsed_service_recovers_only_below_the_rate_it_serves_without_hits():
    reuse = agents()
    low, _ = bistable_region(reuse)
    assert low == pytest.approx(service_rate_at(reuse, 0.0).per_s, rel=1e-3)


def test_there_is_no_loop_where_nothing_repeats():
    reuse = agents(history=0.0)
    assert bistable_region(reuse) is None
    for rate in (0.2, 1.0, 3.0):
        assert len(fixed_points(reuse, rate)) == 1


def test_more_memory_widens_the_loop_upwards_and_longer_thinking_narrows_it():
    tops = [bistable_region(agents(think_s=think_s))[1] for think_s in (5.0, 20.0)]
    assert tops[0] > tops[1] * 1.2
    assert bistable_region(agents(memory_tokens=500_000))[1] > tops[1] * 1.05


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: agents(think_s=0.0), "think_s is 0.0"),
        (lambda: agents(memory_tokens=math.nan), "memory_tokens is nan"),
        (lambda: agents(returns=1.2), "returns is 1.2"),
        (lambda: agents(history=1.5), "no history exceeds its prompt"),
        (lambda: agents(work_s=-1.0), "0 or more"),
        (lambda: service_rate_at(agents(), 1.01), "found is 1.01"),
        (lambda: fixed_points(agents(), 0.0), "arrival_rate is 0.0"),
        (lambda: reuse_of([], [], [], hardware=A100, memory_tokens=9, think_s=1.0), "columns of one length"),
    ],
)
def test_what_the_map_cannot_take_is_refused(call, words):
    with pytest.raises(StabilityError, match=words):
        call()

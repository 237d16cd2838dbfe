"""The reward formulas at and around their thresholds, on hand-made states."""

from dataclasses import replace

import numpy as np
import pytest

from kv_cache_rl.sim.eviction import METRICS, REWARDS, normalized_score
from kv_cache_rl.sim.eviction.columns import Counter
from kv_cache_rl.sim.eviction.dynamics import new_state
from kv_cache_rl.sim.eviction.score import rewards_and_metrics

KEPT = {
    "system": 0.0,
    "context": 0.25,
    "tool_result": 0.25,
    "generation": 0.5,
    "reasoning": 0.9,
    "ephemeral": 1.0,
}


def rewards_of(made, **counters):
    state = new_state(made)
    for name, value in counters.items():
        state.columns.counters[Counter[name]] = value
    return rewards_and_metrics(state, 0.0)[0]


@pytest.mark.parametrize(
    ("failures", "penalty"), [(0, 0), (1, -0.15), (2, -0.30), (3, -0.55), (4, -0.80), (5, -1.0), (50, -1.0)]
)
def test_failure_penalty(kit, failures, penalty):
    assert rewards_of(kit.scenario(kit.session("a", 5)), FAILURES=failures)["failure_penalty"] == penalty


@pytest.mark.parametrize(("tokens", "reward"), [(0, 0), (1250, 0.25), (5000, 1.0), (9000, 1.0)])
def test_throughput_reward(kit, tokens, reward):
    assert rewards_of(kit.scenario(kit.session("a", 5)), TOKENS_DONE=tokens)["throughput_reward"] == reward


@pytest.mark.parametrize(
    ("pages", "step_value"),
    [(1, 1), (79, 1), (80, 0.5), (94, 0.5), (95, 0.2), (99, 0.2), (100, -0.5), (120, -0.5)],
)
def test_headroom_bonus(kit, pages, step_value):
    report = kit.play(kit.scenario(kit.session("a", pages))).report()
    assert report.rewards["headroom_bonus"] == pytest.approx(0.4 * step_value)


def test_headroom_bonus_is_the_mean_over_the_windows(kit):
    made = kit.scenario(kit.session("a", 60), kit.session("b", 30))
    assert kit.play(made, t9=[("evict", "b")]).report().rewards["headroom_bonus"] == pytest.approx(
        0.4 * (9 * 0.5 + 6) / 15, abs=1e-6
    )


@pytest.mark.parametrize(
    ("pages", "reward"), [(84, 0.2), (85, 0.1), (94, 0.1), (95, 0.0), (100, 0.0), (101, -0.2)]
)
def test_memory_efficiency_looks_at_the_last_window(kit, pages, reward):
    assert kit.play(kit.scenario(kit.session("a", pages))).report().rewards["memory_efficiency"] == reward
    if pages <= 100:
        last = kit.play(kit.scenario(kit.session("a", pages)), t14=[("evict", "a")]).report()
        assert last.rewards["memory_efficiency"] == 0.2


@pytest.mark.parametrize(("pages", "pressed"), [(95, 0), (96, 15)])
def test_pressure_steps_are_those_above_95_percent(kit, pages, pressed):
    assert (
        kit.play(kit.scenario(kit.session("a", pages))).report().metrics["pressure_steps_metric"] == pressed
    )


@pytest.mark.parametrize(("windows", "penalty"), [(0, 0), (0.25, -0.05), (1.5, -0.3), (9, -0.3)])
def test_latency_penalty(kit, windows, penalty):
    made = kit.scenario(kit.session("a", 5))
    assert rewards_of(made, LATENCY_US=round(windows * 1_000_000))["latency_penalty"] == pytest.approx(
        penalty
    )


@pytest.mark.parametrize(
    ("kind", "priority", "penalty"),
    [
        ("context", 500, -0.15), ("context", 499, 0), ("tool_result", 1000, 0), ("ephemeral", 1000, 0),
        ("reasoning", 1000, 0), ("generation", 1000, 0),
    ],
)  # fmt: skip
def test_risky_eviction_by_block_type_and_priority(kit, kind, priority, penalty):
    made = kit.scenario(kit.session("a", 5, kind=kind, priority=priority))
    assert kit.play(made, t0=[("evict", "a")]).report().rewards["risky_eviction_penalty"] == penalty


@pytest.mark.parametrize(
    ("priority", "windows", "penalty"),
    [(700, 7, -0.2), (700, 6, 0), (699, 9, 0), (1000, 9, -0.2), (1000, 0, 0)],
)
def test_risky_eviction_of_nearly_finished_work(kit, priority, windows, penalty):
    made = kit.scenario(kit.session("a", 5, kit.turn(-1, 5, out=500), priority=priority))
    report = kit.play(made, **{f"t{windows}": [("evict", "a")]}).report()
    assert report.rewards["risky_eviction_penalty"] == penalty


def test_risky_eviction_of_a_system_prompt_and_the_bound_of_the_sum(kit):
    one = kit.scenario(kit.session("a", 5), prefixes=(4,))
    assert kit.play(one, t0=[("evict", "sys0")]).report().rewards["risky_eviction_penalty"] == -0.3
    many = kit.scenario(*[kit.session(f"s{k}", 5) for k in range(8)])
    thrown = kit.play(many, t0=[("evict", f"s{k}") for k in range(8)])
    assert thrown.report().rewards["risky_eviction_penalty"] == -1.0


def hotness(accessed, now):
    """0.5 at the start, 30 % less with every window without access."""
    return 0.5 * 0.7 ** (now - accessed)


@pytest.mark.parametrize("kind", [kind for kind in KEPT if kind != "system"])
@pytest.mark.parametrize("priority", [0, 500, 900])
def test_eviction_quality_is_one_minus_the_value_of_what_is_left(kit, kind, priority):
    made = kit.scenario(kit.session("a", 7, kind=kind, priority=priority))
    value = KEPT[kind] - 0.15 * (hotness(0, 15) - 0.5) - 0.15 * (priority / 1000 - 0.5)
    got = kit.play(made).report().rewards["eviction_quality"]
    assert got == pytest.approx(1 - min(max(value, 0), 1), abs=0.003)


def test_eviction_quality_weighs_by_pages_and_is_zero_when_nothing_is_left(kit):
    made = kit.scenario(kit.session("a", 30), kit.session("b", 10, kind="ephemeral"))
    alone = [kit.play(kit.scenario(x)).report().rewards["eviction_quality"] for x in made.sessions]
    got = kit.play(made).report().rewards["eviction_quality"]
    assert got == pytest.approx((30 * alone[0] + 10 * alone[1]) / 40, abs=1e-5)
    halved = kit.play(made, t0=[("compress", "a")]).report().rewards["eviction_quality"]
    assert halved == pytest.approx((15 * alone[0] + 10 * alone[1]) / 25, abs=1e-5)
    gone = kit.play(made, t0=[("evict", "a"), ("swap_to_cpu", "b")]).report().rewards["eviction_quality"]
    assert gone == 0


def test_weights_are_the_published_ones_and_sum_to_one():
    assert REWARDS == {
        "failure_penalty": 0.40, "throughput_reward": 0.25, "headroom_bonus": 0.18, "memory_efficiency": 0.07,
        "eviction_quality": 0.05, "latency_penalty": 0.03, "risky_eviction_penalty": 0.02,
    }  # fmt: skip
    assert sum(REWARDS.values()) == pytest.approx(1)


def test_a_report_holds_every_metric_in_the_order_of_the_registry(kit):
    report = kit.play(kit.scenario(kit.session("a", 5))).report()
    assert tuple(report.metrics) == METRICS
    assert [name for name, value in report.metrics.items() if not np.isfinite(value)] == ["regret"]
    assert np.isnan(report.normalized) and "the scenario has no references" in report.notes


def test_a_scenario_that_was_searched_is_scored_between_its_references(kit):
    bare = kit.scenario(kit.session("a", 5))
    earned = kit.play(bare).report().total
    searched = replace(bare, floor=earned - 0.1, floor_by="lru", best=earned + 0.1)
    report = kit.play(searched).report()
    assert (report.normalized, report.metrics["regret"]) == (0.5, pytest.approx(0.1))


@pytest.mark.parametrize(
    ("total", "normal"),
    [(0.1, 0.0), (0.3, 1.0), (0.2, 0.5), (0.9, 1.05), (-0.4, -1.0), (0.31, 1.05), (0.305, 1.025)],
)
def test_normalized_score_puts_the_floor_at_zero_and_the_best_at_one(total, normal):
    assert normalized_score(total, 0.1, 0.3) == pytest.approx(normal)
    assert normalized_score(total, 0.3, 0.3) == 0.0

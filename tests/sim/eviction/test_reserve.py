"""The `stability` decider: how much it frees, how coarse it lets memory get, and what that is worth against
fixed thresholds.
"""

import json
import math

import numpy as np
import pytest

from kv_cache_rl.jit import njit
from kv_cache_rl.search.eviction.oracle import rollout_log, solve
from kv_cache_rl.search.eviction.proposals import SHIPPED
from kv_cache_rl.search.eviction.rollout import policy_return
from kv_cache_rl.sim.eviction import DECIDERS, DIFFICULTIES, Episode, load_scenarios, replay, returns, rollout
from kv_cache_rl.sim.eviction import process as fitted
from kv_cache_rl.sim.eviction import reserve as r
from kv_cache_rl.sim.eviction.deciders import THRESHOLDS, decider, policy_id
from kv_cache_rl.sim.eviction.observe import head_of, rows_of
from kv_cache_rl.sim.eviction.text import read_view
from kv_cache_rl.theory.controller import QueueingConfig, QueueingController

WINDOW_S = 2.0


@njit
def reserve_of_view(rows, head):
    """What the decider keeps free and the lowest rung it lets memory get to, of a packed view."""
    return r.reserve(rows_of(rows), head_of(head))


def observations(made, name="weigh_value"):
    """What a chat model sees, window by window, while a decider plays."""
    episode, decide = Episode(made), DECIDERS[name]()
    while not episode.done:
        seen = json.loads(episode.prompt())
        yield seen
        episode.step(decide(seen))


def plain_load(seen):
    """(calls per window, mean units, units that running requests hold, units of all at 16 bits), from the
    text alone.
    """
    calls, sizes, running, whole = 0.11, [], 0.0, 0
    for row in seen["rows"]:
        entry = dict(zip(seen["columns"], row, strict=True))
        if entry["type"] in ("system", "think", "ephemeral"):
            continue
        size = entry["pages"] * 4 * entry["bits"] // 16
        sizes.append(size)
        whole += entry["pages"] * 4
        if entry["state"] != "idle":
            running += size * (entry["place"] == "gpu")
        else:
            ages = (2, 4, 8, 15, math.inf)
            at = next(k for k, age in enumerate(ages) if entry["idle"] < age)
            calls += (
                (0.20, 0.20, 0.14, 0.07, 0.02)
                if entry["type"] == "tool"
                else (0.23, 0.02, 0.01, 0.007, 0.008)
            )[at]
    return calls, sum(sizes) / max(len(sizes), 1), running, whole


def test_the_reserve_is_the_controllers_over_rates_read_from_one_observation(kit):
    seen_rungs = set()
    for difficulty in DIFFICULTIES:
        for seen in observations(kit.generate(difficulty, 1)):
            calls, mean, running, whole = plain_load(seen)
            budget = round(seen["pages"]["budget"] * 4)
            declared = {"arrival_rate": calls, "service_s": 5.25, "blocks": max(mean, 1e-9)}
            controller = QueueingController(QueueingConfig(), "reserve", **declared)
            rows, head, _ = read_view(seen)
            kept_free, lowest = reserve_of_view(rows, head)
            assert kept_free == controller.eviction_decision(0, budget, 0, active=min(running, budget)).blocks
            rho = whole / budget
            assert lowest == (0 if rho < 0.70 else 1 if rho < 0.85 else 2)
            seen_rungs.add(lowest)
    assert 2 in seen_rungs


def test_the_declared_rates_are_those_of_the_fitted_process():
    def mean(mixture):
        return sum(weight * math.exp(mu + sigma * sigma / 2) for weight, mu, sigma in mixture)

    def still_idle(mixture, again, windows):
        seconds = windows * WINDOW_S
        if not seconds:
            return 1.0
        below = sum(
            w * 0.5 * (1 + math.erf((math.log(seconds) - mu) / sigma / math.sqrt(2)))
            for w, mu, sigma in mixture
        )
        return 1.0 - again * below

    def hazards(mixture, again):
        edges = ((2, 4), (4, 8), (8, 15), (15, 75))
        return [
            1 - (still_idle(mixture, again, b) / still_idle(mixture, again, a)) ** (1 / (b - a))
            for a, b in edges
        ]

    assert mean(fitted.OUT) / mean(fitted.TOKENS_PER_SECOND) / WINDOW_S == pytest.approx(
        r.SERVICE_WINDOWS, rel=0.005
    )
    # The youngest age is left to measurement: a call's end lies somewhere within its window.
    assert returns.WINDOW_TOOL[1:] == pytest.approx(
        hazards(fitted.GAP_TOOL, fitted.ANOTHER_AFTER_TOOL), abs=0.03
    )
    assert returns.WINDOW_END[1:] == pytest.approx(
        hazards(fitted.GAP_END, fitted.ANOTHER_AFTER_END), abs=0.015
    )


def test_where_memory_is_ample_it_does_nothing(kit):
    sessions = kit.session("a", 5, kit.turn(-1, 4, 20, 200)), kit.session("b", 5)
    made = kit.scenario(*sessions, budget=1000, prefill_per_window=1000)
    episode = Episode(made)
    while not episode.done:
        calls = decider("stability")(json.loads(episode.prompt()))
        assert calls == []
        episode.step(calls)


@pytest.mark.parametrize(("pages", "compresses"), [(6, False), (9, True)])
def test_the_load_decides_whether_precision_may_be_touched(kit, pages, compresses):
    """Ten caches and a queue that needs room: at 0.60 of the budget no cache is made coarser, at 0.90 one
    is.
    """
    idle = [kit.session(f"s{k}", pages, priority=900) for k in range(10)]
    made = kit.scenario(
        *idle, kit.session("new", 0, kit.turn(0, 0, 50 * 128, 50)), cpu=500, prefill_per_window=1000
    )
    episode = Episode(made)
    episode.step([])
    calls = decider("stability")(json.loads(episode.prompt()))
    assert calls and ("compress" in {call.verb for call in calls}) == compresses


def test_it_bounds_the_oracle_from_below_but_proposes_nothing_to_it(kit):
    proposed = ["keep", "random", "evict_all", "compress_int8", "compress_int4", "swap_all"]
    proposed += ["lru", "fifo", "lfu", "largest_first", "gdsf", "weigh_value", "weigh_alike", "lookahead"]
    assert SHIPPED.tolist() == [policy_id(name) for name in proposed]
    made = kit.generate("hard", 2)
    assert replay(made, rollout_log(made, "stability")).total == policy_return(made, "stability")
    assert solve(made, width=1, windows=10)[1] >= policy_return(made, "stability")


def test_no_stored_best_return_is_below_what_it_earns():
    for difficulty in DIFFICULTIES:
        for scenario in load_scenarios(difficulty=difficulty, split="eval", num_examples=50, seed=0):
            assert policy_return(scenario, "stability") <= scenario.best


def test_thresholds_are_measures_and_not_shipped():
    assert set(THRESHOLDS) == {"threshold_0.80", "threshold_0.90", "threshold_0.95"}
    assert not set(THRESHOLDS) & set(DECIDERS)
    with pytest.raises(ValueError, match=r"unknown decider 'threshold_0\.85'; use one of keep"):
        decider("threshold_0.85")


def test_a_threshold_frees_what_is_above_its_share_of_the_budget(kit):
    idle = [kit.session(f"s{k}", 10, kind="context") for k in range(9)]
    seen = json.loads(Episode(kit.scenario(*idle, cpu=500, prefill_per_window=1000)).prompt())
    assert decider("threshold_0.90")(seen) == []
    assert decider("threshold_0.95")(seen) == []
    assert decider("threshold_0.80")(seen) != []


def test_on_held_out_hard_traffic_it_fails_and_loses_less_than_every_fixed_threshold():
    """Hard traffic is the bursty one; 100 scenarios that no constant was measured on, each played by all."""
    scenarios = [
        scenario
        for split in ("eval", "test")
        for scenario in load_scenarios(difficulty="hard", split=split, num_examples=50, seed=0)
    ]
    names = ("stability", *THRESHOLDS)
    reports = {name: [rollout(scenario, decider(name)).metrics for scenario in scenarios] for name in names}
    failures = {
        name: np.array([m["total_failures_metric"] for m in found]) for name, found in reports.items()
    }
    lost = {name: np.mean([m["recomputed_tokens"] for m in found]) for name, found in reports.items()}
    for name in THRESHOLDS:
        difference = failures["stability"] - failures[name]
        assert difference.mean() < -0.5
        assert lost["stability"] < 0.9 * lost[name]
        if name != "threshold_0.95":
            assert difference.mean() + 1.96 * difference.std() / math.sqrt(len(scenarios)) < 0

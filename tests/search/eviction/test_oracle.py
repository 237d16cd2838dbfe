"""The oracle bounds every decider, and is bounded by the exact optimum where that can be computed."""

import dataclasses
from itertools import product

import numpy as np
import pytest

from kv_cache_rl.search.eviction.exhaustive import _joint_actions, is_small, optimum, small_scenario
from kv_cache_rl.search.eviction.oracle import ALL_VERBS, beam, solve
from kv_cache_rl.search.eviction.proposals import new_log
from kv_cache_rl.search.eviction.rollout import play_policy, policy_return, step_batch
from kv_cache_rl.sim.eviction import DECIDERS, DIFFICULTIES, Episode, replay
from kv_cache_rl.sim.eviction.actions import Verb
from kv_cache_rl.sim.eviction.columns import Counter, Slot
from kv_cache_rl.sim.eviction.deciders import policy_id
from kv_cache_rl.sim.eviction.dynamics import new_state, step

QUICK = {"width": 2, "windows": 3_000}
VERB = {"evict": Verb.EVICT, "compress": Verb.COMPRESS, "swap_to_cpu": Verb.SWAP}


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize("index", range(3))
def test_the_oracle_is_at_least_as_good_as_every_decider(made, difficulty, index):
    scenario = made(difficulty, index)
    log, value = solve(scenario, **QUICK)
    assert value == replay(scenario, log).total
    assert value >= max(policy_return(scenario, name) for name in DECIDERS)
    assert len(log) == scenario.steps and all(len(step) <= 16 for step in log)


def test_the_oracle_gives_the_same_log_for_the_same_scenario(made):
    assert solve(made("hard", 5), **QUICK) == solve(made("hard", 5), **QUICK)


SMALL = (3, 15, 18)


@pytest.mark.parametrize("seed", SMALL)
def test_on_small_instances_nothing_beats_the_exhaustive_optimum_and_the_beam_comes_close(seed):
    scenario = small_scenario(seed)
    log, value = optimum(scenario)
    assert is_small(scenario) and replay(scenario, log).total == pytest.approx(value, abs=2e-6)
    assert solve(scenario)[1] == replay(scenario, log).total
    by_beam = replay(scenario, beam(scenario, 8, windows=300_000)).total
    assert value - 0.03 <= by_beam <= value + 2e-6
    assert max(policy_return(scenario, name) for name in DECIDERS) <= value + 2e-6


def windows_after(start, actions):
    """The distinct states after one window of each action, counters of calls left out."""
    seen = set()
    for calls in actions:
        state, results = start.copy(), np.zeros(len(calls), np.int64)
        step(*state, np.array(calls, np.int64).reshape(-1, 2), results, np.zeros((0, 3), np.int64))
        counters = state.columns.counters
        if not counters[Counter.INVALID]:
            counters[Counter.CALLS] = counters[Counter.TEXT_ONLY] = 0
            seen.add(state.live.tobytes())
    return seen


@pytest.mark.parametrize(
    ("cpu_room", "slow"), [(0, False), (100, False), (400, False), (5_000, False), (5_000, True)]
)
def test_the_exhaustive_search_reaches_whatever_any_order_of_calls_reaches(cpu_room, slow):
    """Order matters: the pool may be full until its entry is evicted, or until what comes is compressed
    twice, and on a slow link the larger one must go last."""
    base = small_scenario(18)
    scenario = dataclasses.replace(base, cpu_pages=-(-base.sessions[2].tokens // 128) + cpu_room)
    if slow:
        mean = (base.sessions[0].tokens + base.sessions[1].tokens) // 256
        scenario = dataclasses.replace(scenario, link_ns_per_page=scenario.step_us * 1000 // mean)
    start = new_state(scenario)
    joint, counts = _joint_actions(start.columns.dyn[Slot.PLACE])
    reached = windows_after(start, [calls[:n] for calls, n in zip(joint, counts, strict=True)])
    single = [(verb, k) for k in range(3) for verb in VERB.values()]
    orders = [
        calls
        for length in range(5)
        for calls in product(single, repeat=length)
        # Nothing is gained by work on what is evicted in the same window.
        if not any(
            verb == Verb.EVICT and (other, entry) in calls
            for verb, entry in calls
            for other in (Verb.COMPRESS, Verb.SWAP)
        )
    ]
    assert windows_after(start, orders) <= reached


@pytest.mark.parametrize("verb", VERB)
def test_an_oracle_deprived_of_a_verb_does_not_use_it_and_bounds_the_deciders_that_do_not_either(made, verb):
    for index in range(3):
        scenario = made("hard", index)
        log, value = solve(scenario, allowed=ALL_VERBS & ~(1 << VERB[verb]), **QUICK)
        assert (
            not any(call[0] == verb for step in log for call in step) and value == replay(scenario, log).total
        )
        without = {"evict": ("keep", "compress_int4", "swap_all"),
                   "compress": ("keep", "evict_all", "swap_all"),
                   "swap_to_cpu": ("keep", "evict_all", "compress_int8")}[verb]  # fmt: skip
        assert value >= max(policy_return(scenario, name) for name in without)


def test_an_oracle_deprived_of_every_verb_keeps(made):
    scenario = made("hard", 0)
    log, value = solve(scenario, allowed=0, **QUICK)
    assert log == [[["keep"]]] * scenario.steps and value == policy_return(scenario, "keep")


def test_an_oracle_deprived_of_compressing_is_worse_on_hard(made):
    gaps = []
    for index in range(4):
        whole = solve(made("hard", index), width=2, windows=10_000)[1]
        gaps.append(
            whole
            - solve(made("hard", index), width=2, allowed=ALL_VERBS & ~(1 << Verb.COMPRESS), windows=10_000)[
                1
            ]
        )
    assert np.mean(gaps) > 0.02


def test_a_batch_of_episodes_is_stepped_as_each_alone(made):
    scenarios = [made(difficulty, index) for difficulty in DIFFICULTIES for index in range(2)]
    scenarios.append(dataclasses.replace(scenarios[0], steps=4))
    singles = [Episode(scenario) for scenario in scenarios]
    longest = max(len(e.state.scn) for e in singles)
    deepest = max(len(e.state.live) for e in singles)
    scns, states = np.zeros((len(singles), longest), np.int64), np.zeros((len(singles), deepest), np.int64)
    for k, episode in enumerate(singles):
        scn, live = episode.state
        scns[k, : len(scn)], states[k, : len(live)] = scn, live
    rng = np.random.default_rng(3)
    for _ in range(15):
        counts = rng.integers(0, 6, len(singles))
        calls = np.stack(
            [np.column_stack([rng.integers(0, 5, 6), rng.integers(-1, len(e.names) + 1, 6)]) for e in singles]
        )
        step_batch(scns, states, calls, counts)
        for k, e in enumerate(singles):
            live = e.state.live
            if e.state.columns.counters[Counter.WINDOW] < e.scenario.steps:
                step(*e.state, calls[k, : counts[k]], np.zeros(6, np.int64), np.zeros((0, 3), np.int64))
            assert np.array_equal(states[k, : len(live)], live) and not states[k, len(live) :].any()


@pytest.mark.parametrize("name", DECIDERS)
def test_the_calls_a_compiled_rollout_logs_earn_the_same_return_again(made, name):
    scenario = made("medium", 2)
    state, again = new_state(scenario), new_state(scenario)
    calls, counts = new_log(15)
    total = play_policy(*state, policy_id(name), calls, counts)
    for t in range(15):
        made_then = np.array(calls[t, : counts[t]].tolist(), np.int64).reshape(-1, 2)
        step(*again, made_then, np.zeros(20, np.int64), np.zeros((0, 3), np.int64))
    assert np.array_equal(again.live, state.live) and total == pytest.approx(
        policy_return(scenario, name), abs=1e-5
    )

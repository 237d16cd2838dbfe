"""What must hold for every scenario and every sequence of calls, legal or not."""

import dataclasses
import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_cache_rl.sim.eviction import (
    DECIDERS,
    DIFFICULTIES,
    REWARDS,
    Call,
    Episode,
    Scenario,
    play,
    replay,
    rollout,
)
from kv_cache_rl.sim.eviction import state as s
from kv_cache_rl.sim.eviction.actions import Outcome, Verb
from kv_cache_rl.sim.eviction.columns import COUNTERS, Counter, Phase, Slot
from kv_cache_rl.sim.eviction.dynamics import step

games = st.tuples(st.sampled_from(DIFFICULTIES), st.integers(0, 30), st.integers(0, 2**32))
law = settings(max_examples=25, deadline=None)
EVENTS = np.zeros((0, 3), np.int64)


def random_game(kit, game):
    """An episode played to its end by random calls, its books checked after every window."""
    difficulty, seed, luck = game
    rng, episode = random.Random(luck), Episode(kit.generate(difficulty, seed))
    while not episode.done:
        episode.step(kit.random_calls(rng, episode))
        episode.check()
    return episode


@given(game=games)
@law
def test_the_books_balance_after_every_window_and_the_replay_equals_the_live_run(kit, game):
    live = random_game(kit, game)
    log = json.loads(json.dumps(live.log))
    assert replay(live.scenario, log) == live.report()
    again = Scenario.from_json(json.loads(json.dumps(live.scenario.to_json())))
    assert replay(again, log) == live.report()


@given(game=games)
@law
def test_the_total_is_the_weighted_sum_of_the_rewards(kit, game):
    report = random_game(kit, game).report()
    assert list(report.rewards) == list(REWARDS)
    assert report.total == round(sum(REWARDS[name] * value for name, value in report.rewards.items()), 6)


@given(game=games)
@law
def test_the_frozen_buffer_with_the_whole_demand_is_never_written(kit, game):
    episode = random_game(kit, game)
    assert np.array_equal(episode.state.scn, s.pack(episode.scenario))


@given(game=games, cut=st.integers(0, 14))
@law
def test_stepping_a_copy_leaves_the_original_alone(kit, game, cut):
    episode = random_game(kit, game)
    again = Episode(episode.scenario)
    for words in episode.log[:cut]:
        again.step([Call.from_log(call) for call in words])
    before, copied = again.state.live.tobytes(), again.state.copy()
    calls = np.array([[Verb.EVICT, k] for k in range(min(12, len(again.names)))], np.int64)
    step(*copied, calls, np.zeros(len(calls), np.int64), EVENTS)
    assert again.state.live.tobytes() == before != copied.live.tobytes()


def renamed(scenario, log):
    """The same scenario under other ids, and the log that goes with it."""
    sessions = tuple(dataclasses.replace(x, seq_id=f"q{97 - k}") for k, x in enumerate(scenario.sessions))
    prefixes = tuple(
        dataclasses.replace(x, prefix_id=f"r{k}", anchor_id=f"zz{k}") for k, x in enumerate(scenario.prefixes)
    )
    other = dataclasses.replace(scenario, sessions=sessions, prefixes=prefixes)
    names = dict(zip(s.slot_names(scenario), s.slot_names(other), strict=True))
    return other, [[[call[0], *(names.get(x, x) for x in call[1:])] for call in step] for step in log]


@given(game=games)
@law
def test_renaming_the_sequences_changes_no_return(kit, game):
    live = random_game(kit, game)
    report = replay(*renamed(live.scenario, live.log))
    assert (report.rewards, report.total, report.metrics) == (
        live.report().rewards,
        live.report().total,
        live.report().metrics,
    )


@pytest.mark.parametrize("name", DECIDERS)
def test_a_decider_does_not_look_at_the_names(kit, name):
    made = kit.generate("hard", 4)
    assert rollout(renamed(made, [])[0], DECIDERS[name]()).total == rollout(made, DECIDERS[name]()).total


@given(game=games, cut=st.integers(0, 14))
@law
def test_a_refused_call_changes_nothing_but_the_counters_of_calls_however_often_it_is_repeated(
    kit, game, cut
):
    whole = random_game(kit, game)
    base = Episode(whole.scenario)
    for words in whole.log[:cut]:
        base.step([Call.from_log(call) for call in words])
    rng = random.Random(cut)
    codes = {}
    for verb in (Verb.EVICT, Verb.COMPRESS, Verb.SWAP, Verb.UNREADABLE):
        for slot in (-1, len(base.names), *rng.sample(range(len(base.names)), min(6, len(base.names)))):
            state, results = base.state.copy(), np.zeros(4, np.int64)
            step(*state, np.array([[verb, slot]] * 4, np.int64), results, EVENTS)
            good = [k for k in range(4) if results[k] == Outcome.OK]
            plain, kept = base.state.copy(), np.zeros(max(len(good), 1), np.int64)
            calls = np.array([[verb, slot]] * len(good) or [[Verb.KEEP, -1]], np.int64)
            step(*plain, calls, kept, EVENTS)
            one, other = state.columns.counters.copy(), plain.columns.counters.copy()
            assert one[Counter.INVALID] - other[Counter.INVALID] == 4 - len(good)
            for counter in (Counter.CALLS, Counter.INVALID):
                one[counter] = other[counter] = 0
            size = COUNTERS
            assert np.array_equal(state.live[:-size], plain.live[:-size]) and np.array_equal(one, other)
            codes[verb] = codes.get(verb, 0) + 4 - len(good)
    assert all(codes.values())


def expected_arrivals(scenario, timeline):
    """Window in which each turn must arrive: its own, or the one in which the turn before it is over.

    Sequences found wrong in the last window are left out: they may have finished in it, or be settled after
    its arrivals."""
    over, unclear = {}, set()
    for w in timeline:
        for name in w["completions"]:
            over.setdefault(name, []).append(w["step"])
        for f in w["failures"]:
            # Wrong answers end with the decoding, before the arrivals of the window; the other failures after
            # them.
            wrong = f["why"] == "decoded below its tolerance"
            over.setdefault(f["seq_id"], []).append(w["step"] + (not wrong))
            if wrong and w["step"] == scenario.steps - 1:
                unclear.add(f["seq_id"])
    expected = {}
    for x in scenario.sessions:
        ends, steps = sorted(over.get(x.seq_id, [])), []
        for k, turn in enumerate(x.turns):
            if k == 0 and turn.arrive < 0 and x.tokens:
                continue
            if k > len(ends):
                break
            at = max(turn.arrive, ends[k - 1] if k else 0, 0)
            if at < scenario.steps:
                steps.append(at)
        expected[x.seq_id] = steps
    return {name: steps for name, steps in expected.items() if name not in unclear}


@given(game=games)
@law
def test_every_turn_arrives_in_its_window_or_as_soon_as_the_one_before_is_over(kit, game):
    episode = random_game(kit, game)
    seen = {x.seq_id: [] for x in episode.scenario.sessions}
    for w in episode.timeline:
        for name in w["arrivals"]:
            seen[name].append(w["step"])
    expected = expected_arrivals(episode.scenario, episode.timeline)
    assert {name: seen[name] for name in expected} == expected


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize("name", DECIDERS)
def test_first_turns_arrive_in_the_same_windows_whatever_decides(kit, name, difficulty):
    made = kit.generate(difficulty, 6)
    first = {
        x.seq_id: max(x.turns[0].arrive, 0)
        for x in made.sessions
        if x.turns and x.turns[0].arrive < made.steps and not (x.turns[0].arrive < 0 and x.tokens)
    }
    timeline = play(Episode(made), DECIDERS[name]()).timeline
    seen = {}
    for w in timeline:
        for seq_id in w["arrivals"]:
            seen.setdefault(seq_id, w["step"])
    assert {seq_id: seen.get(seq_id) for seq_id in first} == first


@given(game=games)
@law
def test_what_the_time_line_counts_is_what_the_metrics_count(kit, game):
    episode = random_game(kit, game)
    report = episode.report()
    assert sum(len(w["failures"]) for w in report.timeline) == report.metrics["total_failures_metric"]
    assert sum(w["tokens"] for w in report.timeline) == report.metrics["total_tokens_metric"]
    assert sum(not c["ok"] for w in report.timeline for c in w["calls"]) == report.metrics["invalid_calls"]
    assert sum(w["usage_peak"] > 0.95 for w in report.timeline) == report.metrics["pressure_steps_metric"]


@given(game=games)
@law
def test_no_memory_is_left_over_budget_while_a_request_runs(kit, game):
    difficulty, seed, luck = game
    rng, episode = random.Random(luck), Episode(kit.generate(difficulty, seed))
    while not episode.done:
        episode.step(kit.random_calls(rng, episode))
        c = episode.state.columns
        phases, ledger = c.dyn[Slot.PHASE], c.ledger
        assert ledger[0, 1] <= ledger[0, 0] or not (phases >= Phase.PREFILL).any()
        assert ledger[1, 1] <= ledger[1, 0]

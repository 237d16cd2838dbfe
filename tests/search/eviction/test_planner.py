"""The planner knows what the views have shown, and nothing else; it plans the same for the same seed."""

import dataclasses

import numpy as np
import pytest

from kv_cache_rl.experiments.eviction.foresight import Foreseeing, modelled
from kv_cache_rl.search.eviction import planner
from kv_cache_rl.search.eviction.futures import beliefs, one_future
from kv_cache_rl.search.eviction.memory import Memory, published
from kv_cache_rl.search.eviction.planner import Planner, plan
from kv_cache_rl.search.eviction.rollout import policy_return
from kv_cache_rl.sim.eviction import DECIDERS, DIFFICULTIES, Episode, play, replay
from kv_cache_rl.sim.eviction.calls import VERBS
from kv_cache_rl.sim.eviction.columns import Counter
from kv_cache_rl.sim.eviction.observe import Head, Row, new_view, view
from kv_cache_rl.sim.eviction.spec import ScenarioError
from kv_cache_rl.sim.eviction.state import check
from kv_cache_rl.sim.eviction.text import read_view

TOTALS = ("step", "left", "budget", "gpu", "cpu", "queued", "growth", "above", "wait_first", "link_units")
SHOWN = ("kind", "work_class", "status", "pages", "level", "place", "priority", "progress")


def memories(scenario, decide, windows):
    """Episode, and memory of its views, before each of the first windows."""
    episode, memory = Episode(scenario), Memory(scenario.steps)
    for _ in range(windows):
        observation = episode.observation()
        memory.see(observation)
        yield episode, memory
        calls = decide(observation)
        memory.called(calls)
        episode.step(calls)


def seen(state):
    rows, head = new_view()
    count = view(*state, rows, head)
    return rows[:count], Head._make(head.tolist())


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_a_future_looks_as_the_view_does_and_its_books_balance(made, difficulty):
    rng, shown = np.random.default_rng(3), [Row._fields.index(name) for name in SHOWN]
    scenario = made(difficulty, 1)
    for episode, memory in memories(scenario, DECIDERS["learned"](), scenario.steps):
        state, slots = one_future(beliefs(memory, published(scenario)), rng)
        check(state)
        rows, head = seen(episode.state)
        drawn, totals = seen(state)
        assert [getattr(totals, name) for name in TOTALS] == [getattr(head, name) for name in TOTALS]
        assert totals.used == pytest.approx(head.used, rel=0.01)
        by_slot = {int(row[0]): row for row in drawn}
        both = [
            (row, by_slot[slot]) for row, slot in zip(rows, slots.tolist(), strict=True) if slot in by_slot
        ]
        assert len(both) >= 0.8 * len(rows)
        differ = np.array([np.abs(row[shown] - other[shown]) > 1 for row, other in both])
        assert differ.mean() < 0.02


def without_foresight(scenario, t):
    """The same up to window `t`: other tolerances, no call and no session after it."""
    sessions = tuple(
        dataclasses.replace(s, tolerance="fp16", turns=tuple(turn for turn in s.turns if turn.arrive < t))
        for s in scenario.sessions
    )
    return dataclasses.replace(scenario, sessions=sessions, best_log=(), best=0.0, floor=0.0, seed=99)


def test_the_calls_do_not_depend_on_what_the_view_hides(made):
    scenario, t = made("hard", 2), 1
    other = without_foresight(scenario, t)
    calls = []
    for one in (scenario, other):
        episode, player = Episode(one), Planner(one, 5, 4)
        episode.step(player(episode.observation()))
        calls.append([*episode.log, [call.to_log() for call in player(episode.observation())]])
    assert scenario != other and any(calls[0])
    assert calls[0] == calls[1]
    assert published(scenario) == published(other)


def test_the_planner_is_given_nothing_of_the_sessions(made):
    given = published(made("medium", 0))
    assert not (given.sessions or given.prefixes or given.best_log or given.seed or given.best)


def test_a_request_that_is_gone_unasked_counts_as_failed(made):
    scenario = made("hard", 0)
    for episode, memory in memories(scenario, DECIDERS["keep"](), 10):
        true = int(episode.state.columns.counters[Counter.FAILURES])
        assert memory.failures <= true
    assert true > 3 and memory.failures >= 0.6 * true


def test_the_same_seed_plans_the_same_with_legal_calls_and_the_log_earns_the_return(made):
    scenario = made("easy", 0)
    log, value = plan(scenario, 7, 8)
    assert plan(scenario, 7, 8) == (log, value)
    assert value == replay(scenario, log).total and len(log) == scenario.steps
    assert replay(scenario, log).metrics["invalid_calls"] <= 1  # the state of a window is drawn to the page


def test_the_true_future_in_place_of_drawn_ones_gains_clearly(made):
    gains = []
    for k in range(3):
        scenario = made("hard", k)
        episode = Episode(scenario)
        play(episode, Foreseeing(episode))
        gains.append(episode.report().total - policy_return(scenario, planner.BASE))
    assert np.mean(gains) > 0.03 and min(gains) >= -0.01


def test_an_episode_of_the_model_begins_as_the_scenario_does(made):
    scenario = made("medium", 1)
    other = modelled(scenario, 3)
    assert other.sessions != scenario.sessions
    for name in ("pages", "rows", "pending_summary"):
        ours, theirs = (Episode(one).observation()[name] for one in (scenario, other))
        if name == "rows":
            ours, theirs = ([row[1:9] for row in rows] for rows in (ours, theirs))
            assert sum(row in theirs for row in ours) > 0.8 * len(ours)
        elif name == "pages":
            assert (
                ours["used"] == pytest.approx(theirs["used"], rel=0.02) and ours["budget"] == theirs["budget"]
            )


WRONG = [("futures", 0), ("futures", 1), ("futures", 1.5), ("futures", True), ("seed", -1)]


@pytest.mark.parametrize(("what", "value"), WRONG)
def test_numbers_that_do_not_count_are_refused(made, what, value):
    with pytest.raises(ScenarioError, match=what):
        plan(made("easy", 0), **{what: value})


def test_what_it_chooses_earns_more_than_its_base_in_fresh_futures_of_its_own(made):
    gains = []
    for k in range(2):
        scenario = made("hard", k)
        player, episode = Planner(scenario, 0, 256), Episode(scenario)
        for _ in range(4):
            observation = episode.observation()
            calls = player(observation)
            gains.append(gain_in_fresh_futures(player, observation, calls))
            episode.step(calls)
    assert np.mean(gains) > 0.002 and np.mean(np.array(gains) >= -0.01) > 0.7


def gain_in_fresh_futures(player, observation, calls):
    """Mean return of the calls made, less that of the base's, in futures that chose neither."""
    rows, head, ids = read_view(observation)
    made = tuple((int(VERBS[call.verb]), ids.index(call.seq_id)) for call in calls if call.verb != "keep")
    weights = planner.TUNED.weights
    base = planner.Plan(planner._weighed(rows, head, weights), tuple(weights.tolist()))
    values = player.judge([base, planner.Plan(made, tuple(player.weights.tolist()))], 512)
    return float((values[:, 1] - values[:, 0]).mean())

"""The planner knows what the views have shown, and nothing else; it plans the same for the same seed."""

import dataclasses

import numpy as np
import pytest

from kv_cache_rl.search.eviction import planner
from kv_cache_rl.search.eviction.futures import imagine
from kv_cache_rl.search.eviction.memory import Memory, published
from kv_cache_rl.search.eviction.planner import Planner, plan
from kv_cache_rl.sim.eviction import DECIDERS, DIFFICULTIES, Episode, replay
from kv_cache_rl.sim.eviction.calls import VERBS
from kv_cache_rl.sim.eviction.columns import Counter
from kv_cache_rl.sim.eviction.observe import Head, Row, new_view, view
from kv_cache_rl.sim.eviction.spec import ScenarioError
from kv_cache_rl.sim.eviction.state import check

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
        state, slots = imagine(memory, published(scenario), rng)
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


def test_the_calls_do_not_depend_on_what_the_view_hides(made, monkeypatch):
    monkeypatch.setattr(planner, "ROUNDS", 1)
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


def test_the_same_seed_plans_the_same_and_the_log_earns_the_return(made, monkeypatch):
    monkeypatch.setattr(planner, "ROUNDS", 1)
    scenario = made("easy", 0)
    log, value = plan(scenario, 7, 2)
    assert plan(scenario, 7, 2) == (log, value)
    assert value == replay(scenario, log).total and len(log) == scenario.steps


def test_other_calls_are_made_only_where_they_are_better_for_sure(made, monkeypatch):
    keep, lucky, doubtful, sure = (), ((1, 0),), ((1, 1),), ((1, 2),)
    returns = {keep: [0] * 8, lucky: [9, 9] + [-1] * 6, doubtful: [5, 5] + [9, -8] * 3, sure: [1] * 8}
    player = Planner(made("easy", 0), 0, 8)
    monkeypatch.setattr(
        player,
        "_tried",
        lambda offers, drawn: np.array([[float(returns[o][f]) for o in offers] for f in drawn]),
    )
    futures = list(range(8))
    assert player._better(keep, [keep, lucky, doubtful], futures) is None
    assert player._better(keep, [lucky, doubtful, sure], futures) == sure
    assert player._better(keep, [keep], futures) is None


def test_with_one_window_left_it_is_never_worse_in_its_futures_than_learned(made, monkeypatch):
    scenario = made("hard", 4)
    *_, (episode, memory) = memories(scenario, DECIDERS["learned"](), scenario.steps)
    player, observation = Planner(scenario, 0, 12), episode.observation()
    player.memory = memory
    monkeypatch.setattr(memory, "see", lambda values: None)
    drawn = [imagine(memory, player.rules, player.rng) for _ in range(12)]
    player.rng = np.random.default_rng([0, 12])
    made_calls = player(observation)
    rows = {name: k for k, name in enumerate(memory.ids)}
    packed = tuple((int(VERBS[call.verb]), rows[call.seq_id]) for call in made_calls if call.verb != "keep")
    learned = tuple(
        (int(VERBS[call.verb]), rows[call.seq_id])
        for call in DECIDERS["learned"]()(observation)
        if call.verb != "keep"
    )
    judges = drawn[3:]
    assert _mean(player, packed, judges) >= _mean(player, learned, judges)


def _mean(player, calls, drawn):
    return float(player._tried([calls], drawn).mean())


WRONG = [("futures", 0), ("futures", 1), ("futures", 1.5), ("futures", True), ("seed", -1)]


@pytest.mark.parametrize(("what", "value"), WRONG)
def test_numbers_that_do_not_count_are_refused(made, what, value):
    with pytest.raises(ScenarioError, match=what):
        plan(made("easy", 0), **{what: value})

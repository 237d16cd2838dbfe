"""A rank is what its line says, or is refused with the line to write."""

from random import random

import pytest

from kv_cache_rl.core.candidates import Column
from kv_cache_rl.policies.rank import RANKS, Rank
from kv_cache_rl.policies.resting import RankError, check_rank
from kv_cache_rl.sim.hierarchy.dynamics import new_state
from kv_cache_rl.sim.hierarchy.generate import workload
from kv_cache_rl.sim.hierarchy.spec import one_tier


@pytest.mark.parametrize("name", RANKS)
def test_the_ranks_are_what_their_lines_say(name):
    check_rank(name, RANKS[name])


STANDING = {
    "uses per byte": Rank(lambda c: c[Column.USES] / max(c[Column.SIZE], 1.0)),
    "twice the idle time and the age": Rank(lambda c: -2.0 * c[Column.IDLE] - 3.0 * c[Column.AGE]),
    "kept for ever": Rank(lambda c: float("inf") if c[Column.USES] > 3 else -c[Column.IDLE]),
    "a share of the clock, named": Rank(
        lambda c: c[Column.USES] - 0.1 * min(c[Column.IDLE], 50.0),
        drift=lambda last, now: -0.1 * min(now - last, 50.0),
    ),
    "regret, named": Rank(lambda c: c[Column.REGRET] + c[Column.LAST], needs=(Column.REGRET,)),
}


@pytest.mark.parametrize("name", STANDING)
def test_what_stands_still_or_names_its_drift_passes(name):
    check_rank(name, STANDING[name])


FAULTS = {
    "uses over age": (Rank(lambda c: c[Column.USES] / c[Column.AGE]), "names no drift: at clock"),
    "idle, at most 20": (Rank(lambda c: -min(c[Column.IDLE], 20.0)), "names no drift"),
    "uses against idle squared": (Rank(lambda c: c[Column.USES] - c[Column.IDLE] ** 2), "names no drift"),
    "last over now": (Rank(lambda c: c[Column.USES] + c[Column.LAST] / c[Column.NOW]), "names no drift"),
    "another drift": (
        Rank(lambda c: c[Column.USES] - min(c[Column.IDLE], 20.0), drift=lambda last, now: last / now),
        "names another drift",
    ),
    "age beside a drift": (
        Rank(
            lambda c: c[Column.USES] / (1.0 + c[Column.AGE] ** 2) + c[Column.LAST] / c[Column.NOW],
            drift=lambda last, now: last / now,
        ),
        "names another drift",
    ),
    "regret without a word": (Rank(lambda c: c[Column.REGRET]), r"needs=\(Column.REGRET,\)"),
    "a window without a word": (Rank(lambda c: c[Column.RECENT_USES]), "reads RECENT_USES, which is 0"),
    "returns and idle": (
        Rank(lambda c: c[Column.RETURNS] - c[Column.IDLE], needs=(Column.RETURNS,)),
        "not in proportion to RETURNS",
    ),
    "a draw and uses": (
        Rank(lambda c: c[Column.DRAW] + c[Column.USES], needs=(Column.DRAW,)),
        "reads more than DRAW",
    ),
    "no number": (Rank(lambda c: float("nan")), "a key that is no number"),
    "a text": (Rank(lambda c: "1"), "a key that is no number .'1'."),
    "two numbers": (Rank(lambda c: (c[Column.USES], c[Column.LAST])), "a key that is no number"),
    "a draw of its own": (Rank(lambda c: random()), r"another key each time.*needs=\(Column.DRAW,\)"),
    "a column written": (Rank(lambda c: c.__setitem__(Column.USES, 0.0) or 1.0), "writes to its candidate"),
    "over nothing": (
        Rank(lambda c: c[Column.USES] / (c[Column.BITS] * 0.0)),
        "has no key for some candidates",
    ),
}


def impatience(last, now):
    return -min(now - last, 5.0)


HOLDS = {
    "longer than it does": (lambda *_: float("inf"), "keep the order they have at"),
    "as long as a young page settles": (lambda a, i, b, j, now: now + 5, "keep the order they have at"),
    "not at all": (lambda a, i, b, j, now: now, "later than now"),
}


@pytest.mark.parametrize("name", HOLDS)
def test_an_order_that_does_not_hold_as_long_as_it_says_is_refused(name):
    holds, message = HOLDS[name]
    with pytest.raises(RankError, match=message):
        check_rank(name, Rank(lambda c: -min(c[Column.IDLE], 5.0), drift=impatience, holds=holds))


def test_an_order_that_is_looked_at_again_at_every_tick_passes_and_one_that_stands_still_needs_no_look():
    check_rank(
        "each tick",
        Rank(lambda c: -min(c[Column.IDLE], 5.0), drift=impatience, holds=lambda a, i, b, j, now: now + 1),
    )
    with pytest.raises(RankError, match="nothing drifts; drop `holds`"):
        check_rank("still", Rank(lambda c: -c[Column.IDLE], holds=lambda *_: float("inf")))


@pytest.mark.parametrize("name", FAULTS)
def test_what_would_replay_another_policy_is_refused_with_the_remedy(name):
    rank, message = FAULTS[name]
    with pytest.raises(RankError, match=message):
        check_rank(name, rank)


def test_a_replay_under_such_a_rank_does_not_begin(monkeypatch):
    monkeypatch.setitem(RANKS, "cost_aware", FAULTS["uses over age"][0])
    trace = workload("rag_burst")
    with pytest.raises(RankError, match="rank 'cost_aware' drifts with time"):
        new_state(trace, one_tier(10**6), "cost_aware")

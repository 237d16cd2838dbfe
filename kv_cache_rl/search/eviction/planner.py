"""The planner: a reference that plans from the view alone, and so says what foreknowledge is worth.

    for every window:
        known = what all views so far allow to believe                                (`futures`)
        best  = the plan that was followed before
        best  = a better one of: the same calls as other constants of the weighing would make, and play on
        repeat:   best = a better one of: other deciders' calls, and all lists that differ in one call
        make the calls of `best`; look again

A plan is the calls of this window, and the constants with which the weighing plays on. `halving` says
which plan is better, in futures drawn anew. It takes about a second a window, and so it is no decider of
the registry."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kv_cache_rl.core.numbers import whole_number
from kv_cache_rl.search.eviction.futures import beliefs
from kv_cache_rl.search.eviction.halving import Round, better
from kv_cache_rl.search.eviction.judging import in_futures, weighed
from kv_cache_rl.search.eviction.memory import Memory, published
from kv_cache_rl.sim.eviction.actions import Verb
from kv_cache_rl.sim.eviction.calls import KEEP, NAMES, Call
from kv_cache_rl.sim.eviction.columns import Place
from kv_cache_rl.sim.eviction.constants import SIGNED
from kv_cache_rl.sim.eviction.deciders import MAX_OUT, decide_view, policy_id
from kv_cache_rl.sim.eviction.episode import Episode, play
from kv_cache_rl.sim.eviction.log import ActionLog
from kv_cache_rl.sim.eviction.observe import Row, Status
from kv_cache_rl.sim.eviction.spec import MAX_CALLS_PER_STEP, Scenario, ScenarioError
from kv_cache_rl.sim.eviction.text import read_view
from kv_cache_rl.sim.eviction.trained import TUNED

BASE = "tuned"
"""Its calls are made unless others are better for sure, and its constants are where other plans begin."""
OTHERS = ("learned", "weigh_value", "weigh_alike", "lookahead", "stability", "lru", "keep")
"""Deciders whose calls are tried."""
DEFAULT_FUTURES = 256
SURE = 1.0
"""Standard errors by which the gain of another plan must be above 0."""
CHANGES = 2
"""Changes of one call, at most, on top of the best decider's calls."""
TRIED = 60
"""Constants that are tried in each window."""
ELITE = 8
"""Of those, the best that earlier windows found."""
STEPS = (0.1, 0.2, 0.4)
"""Sizes of their steps, in logarithms."""
MOVED = 0.3
"""Share of the constants that a step moves."""

_PLACE, _STATUS = Row._fields.index("place"), Row._fields.index("status")

Calls = tuple[tuple[int, int], ...]
"""Calls of one window: verb and row of the view."""


class Plan(NamedTuple):
    """The calls of this window, and the constants that play on."""

    calls: Calls
    weights: tuple[float, ...]


class Planner:
    """A decider with a memory, for one episode: from observations in the full view to calls."""

    def __init__(self, scenario: Scenario, seed: int = 0, futures: int = DEFAULT_FUTURES):
        """Of the scenario it keeps what is `published`.

        Args:
            futures: how many a choice ends with; the rounds before it add about half as many (`rounds_of`).
        """
        whole_number("seed", seed, 0, error=ScenarioError)
        self.rounds = rounds_of(whole_number("futures", futures, 2, error=ScenarioError))
        self.rules = published(scenario)
        self.memory = Memory(scenario.steps)
        self.rng = np.random.default_rng([seed, 12])
        self.weights = TUNED.weights
        self.elite: list[np.ndarray] = []
        self.known = None

    def __call__(self, observation: dict) -> list[Call]:
        self.memory.see(observation)
        self.known = beliefs(self.memory, self.rules)
        rows, head, ids = read_view(observation)
        best = self._with_better_constants(rows, head)
        self.weights = np.array(best.weights)
        offers = [_calls_of(name, rows, head) for name in OTHERS]
        for _ in range(CHANGES):
            offers += _changes(best.calls, rows[: len(ids)])
            plans = [Plan(calls, best.weights) for calls in dict.fromkeys(offers) if calls != best.calls]
            found, _ = better(best, plans, self.judge, self.rounds, SURE)
            if found is None:
                break
            best, offers = found, []
        calls = [Call(NAMES[verb], ids[row]) for verb, row in best.calls] or [KEEP]
        self.memory.called(calls)
        return calls

    def _with_better_constants(self, rows: np.ndarray, head: np.ndarray) -> Plan:
        """The plan of the constants that were followed, or of better ones."""
        here = [self.weights, *self.elite]
        tried = self.elite + [self._moved(here[k % len(here)]) for k in range(TRIED - len(self.elite))]
        plans = [Plan(_weighed(rows, head, one), tuple(one.tolist())) for one in tried]
        base = Plan(_weighed(rows, head, self.weights), tuple(self.weights.tolist()))
        plans = [plan for plan in dict.fromkeys(plans) if plan != base]
        found, ranked = better(base, plans, self.judge, self.rounds, SURE)
        self.elite = [np.array(plan.weights) for plan in ranked[:ELITE]]
        return found or base

    def _moved(self, weights: np.ndarray) -> np.ndarray:
        """Constants a step away from these."""
        size = self.rng.choice(STEPS) * self.rng.standard_normal(len(weights))
        size *= self.rng.random(len(weights)) < MOVED
        signed = weights + np.maximum(np.abs(weights), 0.1) * size
        return np.where(SIGNED, signed, weights * np.exp(size))

    def judge(self, plans: Sequence[Plan], futures: int) -> np.ndarray:
        """The returns of plans in futures drawn anew, ``[futures, plans]``."""
        values = np.empty((futures, len(plans)))
        in_futures(self.rng, self.known, *packed(plans), values)
        return values


def rounds_of(futures: int) -> tuple[Round, ...]:
    """Rounds of which the last has so many futures; those before it have about half as many together.

    >>> [one.futures for one in rounds_of(256)]
    [8, 23, 85, 256]
    """
    shares = ((32, 24), (11, 8), (3, 3), (1, 3))
    return tuple(Round(max(futures // share, 1), kept) for share, kept in shares)


def packed(plans: Sequence[Plan]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Plans as compiled code takes them: calls, how many, all constants, and which go with which calls."""
    weights = {one: k for k, one in enumerate(dict.fromkeys(plan.weights for plan in plans))}
    calls = np.zeros((len(plans), MAX_OUT, 2), np.int64)
    for k, plan in enumerate(plans):
        calls[k, : len(plan.calls)] = np.array(plan.calls, np.int64).reshape(-1, 2)
    counts = np.array([len(plan.calls) for plan in plans], np.int64)
    return calls, counts, np.array(list(weights)), np.array([weights[plan.weights] for plan in plans])


def _weighed(rows: np.ndarray, head: np.ndarray, weights: np.ndarray) -> Calls:
    out = np.zeros((MAX_OUT, 2), np.int64)
    return _listed(out, weighed(rows, head, weights, out))


def _calls_of(name: str, rows: np.ndarray, head: np.ndarray) -> Calls:
    """What a decider does on a view."""
    out = np.zeros((MAX_OUT, 2), np.int64)
    return _listed(out, decide_view(policy_id(name), rows, head, out))


def _listed(out: np.ndarray, count: int) -> Calls:
    made = out[: min(count, MAX_CALLS_PER_STEP)].tolist()
    return tuple((verb, row) for verb, row in made if verb != Verb.KEEP and row >= 0)


def _changes(calls: Calls, rows: np.ndarray) -> list[Calls]:
    """All lists that differ in one call: one less, one more, or another verb in its place.

    Nothing that runs or waits is evicted: on average it costs a request.
    """
    changed = [calls[:k] + calls[k + 1 :] for k in range(len(calls))]
    changed += [
        (*calls[:k], (int(verb), row), *calls[k + 1 :])
        for k, (made, row) in enumerate(calls)
        for verb in _verbs(rows[row])
        if verb != made
    ]
    if len(calls) < MAX_CALLS_PER_STEP:
        changed += [(*calls, (int(verb), row)) for row in range(len(rows)) for verb in _verbs(rows[row])]
    return changed


def _verbs(row: np.ndarray) -> tuple[Verb, ...]:
    """What may be tried on an entry."""
    on_gpu = (Verb.COMPRESS, Verb.SWAP) if row[_PLACE] == Place.GPU else ()
    return (Verb.EVICT, *on_gpu) if row[_STATUS] == Status.IDLE else on_gpu


def plan(scenario: Scenario, seed: int = 0, futures: int = DEFAULT_FUTURES) -> tuple[ActionLog, float]:
    """The planner's action log and its return; the same for the same seed.

    Raises:
        ScenarioError: no whole seed from 0 on, or fewer than two futures.
    """
    episode = play(Episode(scenario), Planner(scenario, seed, futures))
    return episode.log, episode.report().total

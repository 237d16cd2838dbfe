"""The planner: a reference that plans from the view alone, and so says what foreknowledge is worth.

    for every window:
        futures = K whole episodes that fit all views so far                          (`futures`)
        best    = the calls of `learned`
        repeat:   tried = the other deciders' calls, and all lists that differ from `best` in one call
                  best  = the one of them that earns more for sure, `learned` playing on; stop if none does
        make the calls of `best`; look again

Some of the futures choose a dozen of the lists, and the others judge these. It takes seconds a window, and
so it is no decider of the registry."""

import numpy as np

from kv_cache_rl.core.numbers import whole_number
from kv_cache_rl.jit import njit
from kv_cache_rl.search.eviction.futures import imagine
from kv_cache_rl.search.eviction.memory import Memory, published
from kv_cache_rl.search.eviction.proposals import AS_MADE, complete, new_desk
from kv_cache_rl.sim.eviction.actions import Verb
from kv_cache_rl.sim.eviction.calls import KEEP, NAMES, Call
from kv_cache_rl.sim.eviction.columns import CALL, Place, constants_of
from kv_cache_rl.sim.eviction.deciders import MAX_OUT, decide_view, policy_id
from kv_cache_rl.sim.eviction.dynamics import advance
from kv_cache_rl.sim.eviction.episode import Episode, play
from kv_cache_rl.sim.eviction.log import ActionLog
from kv_cache_rl.sim.eviction.observe import Row, Status
from kv_cache_rl.sim.eviction.spec import MAX_CALLS_PER_STEP, Scenario, ScenarioError
from kv_cache_rl.sim.eviction.text import read_view

DEFAULT_FUTURES = 32
SURE = 1.0
"""Standard errors by which the mean gain of other calls must be above 0."""
BASE = "learned"
"""Its calls stand unless others are better for sure, and it plays on after the calls that are tried."""
OTHERS = ("tuned", "weigh_value", "weigh_alike", "lookahead", "stability", "lru", "keep")
"""Deciders whose calls are tried."""
ROUNDS = 3
"""Changes of one call, at most, on top of the best decider's calls."""
KEPT = 12
"""Lists that are judged."""

_PLACE, _STATUS = Row._fields.index("place"), Row._fields.index("status")

Calls = tuple[tuple[int, int], ...]
"""Calls of one window: verb and row of the view."""


@njit(nogil=True)
def _values(scn, live, calls, counts, policy, values):
    """The return of each list of calls, with `policy` playing on: calls `CALL` ``[C, MAX_OUT]``."""
    desk, trial = new_desk(scn), live.copy()
    without, one = np.empty((0, 4), np.int64), np.array([policy])
    steps = constants_of(scn).steps
    log, logged = np.zeros((steps, MAX_OUT), CALL), np.zeros(steps, np.int64)
    for k in range(len(counts)):
        trial[:] = live
        advance(scn, trial, calls[k, : counts[k]], desk.results, desk.events, desk.lists)
        values[k] = complete(scn, trial, desk, 0, without, one, AS_MADE, log, logged)


class Planner:
    """A decider with a memory, for one episode: from observations in the full view to calls."""

    def __init__(self, scenario: Scenario, seed: int = 0, futures: int = DEFAULT_FUTURES):
        """Of the scenario it keeps what is `published`.

        Args:
            futures: how many are drawn in each window; some choose, the rest judge.
        """
        whole_number("seed", seed, 0, error=ScenarioError)
        self.futures = whole_number("futures", futures, 2, error=ScenarioError)
        self.rules = published(scenario)
        self.memory = Memory(scenario.steps)
        self.rng = np.random.default_rng([seed, 12])
        self.base = policy_id(BASE)

    def __call__(self, observation: dict) -> list[Call]:
        memory = self.memory
        memory.see(observation)
        drawn = [imagine(memory, self.rules, self.rng) for _ in range(self.futures)]
        rows, head, ids = read_view(observation)
        best = _calls_of(BASE, rows, head)
        offers = [*(_calls_of(name, rows, head) for name in OTHERS), *_changes(best, rows[: len(ids)])]
        for _ in range(ROUNDS):
            better = self._better(best, offers, drawn)
            if better is None:
                break
            best, offers = better, _changes(better, rows[: len(ids)])
        calls = [Call(NAMES[verb], ids[row]) for verb, row in best] or [KEEP]
        memory.called(calls)
        return calls

    def _better(self, best: Calls, offers: list[Calls], drawn: list) -> Calls | None:
        """The one of `offers` that is better than `best` for sure; None if none is.

        The best on a quarter of the futures are compared on the rest, as the highest of many means
        owes most of its height to chance.
        """
        few = max(len(drawn) // 4, 1)
        offers = [calls for calls in dict.fromkeys(offers) if calls != best]
        if not offers:
            return None
        means = self._tried(offers, drawn[:few]).mean(0)
        kept = [offers[k] for k in np.argsort(-means, kind="stable")[:KEPT]]
        values = self._tried([best, *kept], drawn[few:])
        gain = values[:, 1:] - values[:, :1]
        sure = gain.mean(0) - SURE * gain.std(0) / len(gain) ** 0.5
        k = int(np.argmax(sure))
        return kept[k] if sure[k] > 1e-9 else None

    def _tried(self, offers: list[Calls], drawn: list) -> np.ndarray:
        """The returns of lists of calls in futures, ``[futures, offers]``."""
        values = np.empty((len(drawn), len(offers)))
        packed = np.zeros((len(offers), MAX_OUT, 2), np.int64)
        counts = np.array([len(calls) for calls in offers], np.int64)
        for k, calls in enumerate(offers):
            packed[k, : len(calls)] = np.array(calls, np.int64).reshape(-1, 2)
        for f, (state, slots) in enumerate(drawn):
            here = packed.copy()
            here[..., 1] = slots[packed[..., 1]]
            _values(*state, here.view(CALL)[..., 0], counts, self.base, values[f])
        return values


def _calls_of(name: str, rows: np.ndarray, head: np.ndarray) -> Calls:
    """What a decider does on a view."""
    out = np.zeros((MAX_OUT, 2), np.int64)
    count = min(decide_view(policy_id(name), rows, head, out), MAX_CALLS_PER_STEP)
    return tuple((verb, row) for verb, row in out[:count].tolist() if verb != Verb.KEEP and row >= 0)


def _changes(calls: Calls, rows: np.ndarray) -> list[Calls]:
    """All lists that differ in one call: one less, one more, or another verb in its place.

    Nothing that runs or waits is evicted: on average it costs a request, and of the many that could be,
    some seem to gain by chance.
    """
    changed = [calls[:k] + calls[k + 1 :] for k in range(len(calls))]
    changed += [
        (*calls[:k], (int(verb), row), *calls[k + 1 :])
        for k, (made, row) in enumerate(calls)
        for verb in _verbs(rows[row])
        if verb != made
    ]
    if len(calls) < MAX_CALLS_PER_STEP:
        changed += [
            (*calls, (int(verb), row))
            for row in range(len(rows))
            for verb in _verbs(rows[row])
        ]
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

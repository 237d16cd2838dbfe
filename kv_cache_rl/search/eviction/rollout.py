"""Compiled rollouts: a decider plays an episode to its end, and a batch of episodes plays one window."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from kv_cache_rl.jit import njit, uncounted
from kv_cache_rl.search.eviction.proposals import (
    AS_MADE,
    allowed_calls,
    complete,
    completing,
    new_desk,
    new_log,
)
from kv_cache_rl.sim.eviction.actions import ALL_VERBS
from kv_cache_rl.sim.eviction.columns import EVENT, Counter, calls_of, columns_of, constants_of
from kv_cache_rl.sim.eviction.constants import CONSTANTS
from kv_cache_rl.sim.eviction.dealing import deal
from kv_cache_rl.sim.eviction.deciders import FLOOR, policy_id
from kv_cache_rl.sim.eviction.dynamics import advance, new_state
from kv_cache_rl.sim.eviction.learned import choose_learned, new_room
from kv_cache_rl.sim.eviction.network import NETWORK
from kv_cache_rl.sim.eviction.observe import MAX_ROWS, look
from kv_cache_rl.sim.eviction.score import rewards_and_metrics
from kv_cache_rl.sim.eviction.spec import Scenario
from kv_cache_rl.sim.eviction.state import State
from kv_cache_rl.sim.eviction.tuned import choose_tuned
from kv_cache_rl.sim.eviction.weighing import PRICED


@njit(nogil=True)
def play_policy(scn, live, policy, calls, counts):
    """Lets a decider finish the episode, writes its calls into a log of `new_log`, and returns the return."""
    without = np.empty((0, 4), np.int64)
    return complete(scn, live, new_desk(scn), 0, without, np.array([policy]), AS_MADE, calls, counts)


def finish(state: State, policy: int) -> None:
    """Plays the episode to its end with a decider, advancing `state` in place."""
    play_policy(*state, policy, *new_log(int(state.columns.constants.steps)))


def policy_return(scenario: Scenario, name: str) -> float:
    """The return of a decider, to the last digit that of the rollout through observation texts."""
    return policy_returns(scenario, (name,))[name]


def policy_returns(scenario: Scenario, names: Iterable[str]) -> dict[str, float]:
    """`policy_return` of each of these deciders."""
    start, returns = new_state(scenario), {}
    for name in names:
        state = start.copy()
        finish(state, policy_id(name))
        returns[name] = rewards_and_metrics(state, scenario.best)[1]
    return returns


def floor_of(scenario: Scenario) -> tuple[float, str]:
    """The best return of the rules that do not react, and the first of them that earns it."""
    returns = policy_returns(scenario, FLOOR)
    by = max(returns, key=lambda name: returns[name])
    return returns[by], by


@uncounted
def _look_and_weigh(scn, live, desk, plan):
    weights, allowed, first_only, dealt = plan
    c = columns_of(scn, live)
    t = c.counters[Counter.WINDOW]
    if first_only and t > 0:
        return 0
    n = look(scn, live, desk.rows, desk.head[0], desk.slots, True)
    m = choose_tuned(
        desk.rows, n, desk.head[0], weights.view(CONSTANTS)[0], allowed,
        desk.chance, desk.loss, desk.usual, desk.out, desk.costs, desk.notes,
    )  # fmt: skip
    if dealt > 0:
        deal(desk.rows, n, desk.out, m, dealt * c.constants.steps + t)
    return allowed_calls(desk, m, allowed)


weigh_to_the_end = completing(_look_and_weigh)


@njit(nogil=True)
def play_tuned(scn, live, weights, allowed, first_only, dealt, calls, counts):
    """Lets the weighing finish the episode, writes its calls into a log of `new_log`, and returns the return.

    Args:
        weights: float64 ``[D]``, contiguous, the constants in the order of `CONSTANTS`.
        allowed: bit set of verbs.
        first_only: whether it acts in the first window alone.
        dealt: positive to deal its calls to random entries that can take them, drawn from this seed.
    """
    return weigh_to_the_end(scn, live, new_desk(scn), (weights, allowed, first_only, dealt), calls, counts)


@uncounted
def _look_and_learn(scn, live, desk, plan):
    weights, priced, room = plan
    n = look(scn, live, desk.rows, desk.head[0], desk.slots, True)
    m = choose_learned(
        desk.rows, n, desk.head[0], weights.view(NETWORK)[0], ALL_VERBS,
        desk.chance, desk.loss, priced, room, desk.out, desk.costs, desk.notes,
    )  # fmt: skip
    return allowed_calls(desk, m, ALL_VERBS)


_learn_to_the_end = completing(_look_and_learn)


@njit(nogil=True)
def play_learned(scn, live, weights, calls, counts):
    """Lets a network finish the episode, writes its calls into a log of `new_log`, and returns the return.

    `weights` is float64 ``[SIZE]``, contiguous, in the order of `NETWORK`.
    """
    plan = (weights, np.empty((MAX_ROWS, PRICED)), new_room())
    return _learn_to_the_end(scn, live, new_desk(scn), plan, calls, counts)


@njit(nogil=True)
def step_batch(scns, lives, calls, counts):
    """Plays one window of every episode of a batch that is not over.

    Args:
        scns, lives: int64 ``[E, A]`` and ``[E, B]``, the buffers of the states, padded to one length;
            `lives` is advanced in place.
        calls: int64 ``[E, K, 2]``, contiguous: verb and slot; counts: int64 ``[E]``, how many of them count.
    """
    most = 0
    for e in range(len(scns)):
        most = max(most, constants_of(scns[e]).sessions)
    results, events = np.empty(calls.shape[1], np.int64), np.empty(0, EVENT)
    records = calls_of(calls).reshape(calls.shape[0], calls.shape[1])
    _step_each(scns, lives, records, counts, results, events, np.empty((2, most + 1), np.int64))


@uncounted
def _step_each(scns, lives, calls, counts, results, events, lists):
    for e in range(len(scns)):
        c = columns_of(scns[e], lives[e])
        if c.counters[Counter.WINDOW] < c.constants.steps:
            advance(scns[e], lives[e], calls[e, : counts[e]], results, events, lists)


def threads(jobs, workers: int = 2) -> list:
    """Runs callables side by side; compiled code releases the lock."""
    with ThreadPoolExecutor(workers) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]

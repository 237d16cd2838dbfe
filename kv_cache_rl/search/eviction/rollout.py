"""Compiled rollouts: a decider plays an episode to its end, and a batch of episodes plays one window."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from kv_cache_rl.jit import njit, uncounted
from kv_cache_rl.search.eviction.proposals import AS_MADE, complete, new_desk, new_log
from kv_cache_rl.sim.eviction.columns import EVENT, Counter, calls_of, columns_of, constants_of
from kv_cache_rl.sim.eviction.deciders import FLOOR, policy_id
from kv_cache_rl.sim.eviction.dynamics import advance, new_state
from kv_cache_rl.sim.eviction.score import rewards_and_metrics
from kv_cache_rl.sim.eviction.spec import Scenario
from kv_cache_rl.sim.eviction.state import State


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

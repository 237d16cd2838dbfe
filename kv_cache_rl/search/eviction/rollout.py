"""Compiled rollouts: a policy plays a packed episode to its end, alone or over a batch of episodes."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from kv_cache_rl.jit import njit, uncounted
from kv_cache_rl.sim.eviction.deciders import MAX_OUT, decide, policy_id
from kv_cache_rl.sim.eviction.dynamics import advance, step
from kv_cache_rl.sim.eviction.observe import MAX_ROWS, V_SLOT, VIEW_COLS, VIEW_HEAD, view
from kv_cache_rl.sim.eviction.score import rewards_and_metrics, total_return
from kv_cache_rl.sim.eviction.spec import Scenario
from kv_cache_rl.sim.eviction.state import SESSIONS, STEPS_, T, counters_of, initial_state, pack


@njit(nogil=True)
def play_policy(scn, state, policy, calls_log, count_log):
    """Lets `policy` finish the episode in `state`; logs verb and slot of its calls, and returns the return."""
    rows, head = np.empty((MAX_ROWS, VIEW_COLS), np.int64), np.empty(VIEW_HEAD, np.int64)
    out, results = np.empty((MAX_OUT, 2), np.int64), np.empty(MAX_OUT, np.int64)
    events = np.empty((0, 3), np.int64)
    counters = counters_of(scn, state)
    while counters[T] < scn[STEPS_]:
        view(scn, state, rows, head)
        m = decide(policy, rows, head, out)
        t = counters[T]
        for k in range(m):
            if out[k, 1] >= 0:
                out[k, 1] = rows[out[k, 1], V_SLOT]
            if len(calls_log) > 0:
                calls_log[t, k, 0], calls_log[t, k, 1] = out[k, 0], out[k, 1]
        if len(count_log) > 0:
            count_log[t] = m
        step(scn, state, out[:m], results, events)
    return total_return(scn, state)


def finish(scn: np.ndarray, state: np.ndarray, policy: int) -> None:
    """Plays the episode in `state` to its end with a policy, advancing it in place."""
    play_policy(scn, state, policy, np.empty((0, 0, 2), np.int64), np.empty(0, np.int64))


def policy_return(scenario: Scenario, name: str) -> float:
    """The return of a shipped decider, without observation text; equal to the rollout through text to the
    last digit.
    """
    scn = pack(scenario)
    state = initial_state(scenario, scn)
    finish(scn, state, policy_id(name))
    return rewards_and_metrics(scn, state, scenario.best)[1]


@njit(nogil=True)
def step_batch(scns, states, calls, counts):
    """One window of every episode of a batch.

    Args:
        scns: int64 ``[E, A]``, packed scenarios padded to one length; states: int64 ``[E, B]``, likewise,
        advanced in place. calls: int64 ``[E, K, 2]`` verb and slot; counts: int64 ``[E]`` how many of them
        count.
    """
    results = np.empty(calls.shape[1], np.int64)
    events = np.empty((0, 3), np.int64)
    lists = np.empty((2, scns[:, SESSIONS].max() + 1), np.int64)
    _step_each(scns, states, calls, counts, results, events, lists)


@uncounted
def _step_each(scns, states, calls, counts, results, events, lists):
    for e in range(len(scns)):
        if counters_of(scns[e], states[e])[T] < scns[e, STEPS_]:
            advance(scns[e], states[e], calls[e, : counts[e]], results, events, lists)


def threads(jobs, workers: int = 2) -> list:
    """Runs callables side by side; compiled code releases the lock."""
    with ThreadPoolExecutor(workers) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]

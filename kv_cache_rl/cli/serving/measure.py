"""The measurements behind ``serving bench``: each returns one rate, compilation and warm-up left out.

All servers are in the middle of an episode of medium, at its typical load: `lru` has played them to between
30 and 70 % of their time. From there a policy goes on for a short window, over and over from the same copies;
the median run counts."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from statistics import median
from time import perf_counter

import numpy as np

from kv_cache_rl.search.serving.rollout import finish, play, steps
from kv_cache_rl.sim.serving.actions import NOTHING
from kv_cache_rl.sim.serving.dynamics import new_state
from kv_cache_rl.sim.serving.heuristics import HEURISTICS, choose, new_memory
from kv_cache_rl.sim.serving.observe import new_view
from kv_cache_rl.sim.serving.spec import task
from kv_cache_rl.sim.serving.state import State

SEED = 30_000
SINGLE = 9
"""Servers of the measurements that take one after the other."""
WINDOW = 300
"""Ticks or decisions of each server in a run: few, so that the load stays what it was under any policy."""
LEAST_RUNS = 5
ID = "KVServing-medium-v0"


def in_mid_episode(count: int, **changes) -> list[State]:
    """So many servers of medium, each of a seed of its own, evenly spread over 30 to 70 % of an episode under
    `lru`.
    """
    states = []
    for k, share in enumerate(np.linspace(0.3, 0.7, count)):
        state = new_state(task("medium", **changes), SEED + k)
        until = int(share * state.columns.book["end_us"])
        finish(state, HEURISTICS["lru"].which, new_memory("lru"), until)
        states.append(state)
    return states


def median_rate(
    prepare: Callable[[], object], work: Callable[[], int], seconds: float, least: int = LEAST_RUNS
) -> float:
    """Units per second of `work`, which says how many it did: the median run of at least so many, after one
    to warm up.

    `prepare` comes before each run and does not count.
    """
    prepare()
    work()
    rates, deadline = [], perf_counter() + seconds
    while len(rates) < least or perf_counter() < deadline:
        prepare()
        started = perf_counter()
        done = work()
        rates.append(done / (perf_counter() - started))
    return median(rates)


def ticks_per_second(policy: str, seconds: float, window: int = WINDOW, **changes) -> float:
    """Ticks per second of one server after the other under a compiled policy; views and masks are made for
    every decision.
    """
    starts, copies = in_mid_episode(SINGLE, **changes), []
    which, memory, view = HEURISTICS[policy].which, new_memory(policy), new_view()
    until = [int(state.columns.book["clock_us"]) + window * state.load.tick_us for state in starts]

    def prepare() -> None:
        copies[:] = [state.copy() for state in starts]

    def work() -> int:
        for state, end in zip(copies, until, strict=True):
            play(*state.buffers, which, memory.copy(), *view, end)
        pairs = zip(starts, copies, strict=True)
        return sum(int(b.columns.book["ticks"] - a.columns.book["ticks"]) for a, b in pairs)

    return median_rate(prepare, work, seconds)


def interpreted_ticks(policy: str, ticks: int = 300, window: int = 30) -> float:
    """Peer of the compiled ticks: the same source run by the Python interpreter, in the middle of shorter
    episodes.
    """
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "from kv_cache_rl.cli.serving.measure import ticks_per_second\n"
        f"print(ticks_per_second({policy!r}, 0.2, window={window}, ticks={ticks}))"
    )
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def actions_of(policy: str, states: Sequence[State], count: int = WINDOW) -> np.ndarray:
    """What a policy does next on each server, int64 ``[count, len(states)]``; nothing where an episode is
    over.
    """
    taken, which = np.full((count, len(states)), NOTHING), HEURISTICS[policy].which
    for e, start in enumerate(states):
        decide = partial(heuristic_action, which, new_memory(policy))
        for k, (action, _) in enumerate(islice(steps(start.copy(), decide), count)):
            taken[k, e] = action
    return taken


def heuristic_action(which: int, memory: np.ndarray, seen: np.ndarray, mask: np.ndarray) -> int:
    """`heuristics.choose`, its memory bound first."""
    return choose(which, seen, mask, memory)


def gym_steps(policy: str, seconds: float) -> float:
    """Gymnasium steps per second of one server after the other, made as users make it, under what a policy
    does there.
    """
    import gymnasium

    import kv_cache_rl.gym  # noqa: F401

    states = in_mid_episode(SINGLE)
    envs = [gymnasium.make(ID) for _ in states]
    lists = actions_of(policy, states).T.tolist()

    def prepare() -> None:
        for env, state in zip(envs, states, strict=True):
            # Gymnasium's wrappers want to see a reset.
            env.reset(seed=SEED)
            env.unwrapped.resume(state)  # pyrefly: ignore[missing-attribute]

    def work() -> int:
        done = 0
        for env, actions in zip(envs, lists, strict=True):
            for action in actions:
                _, _, terminated, truncated, _ = env.step(action)
                done += 1
                if terminated or truncated:
                    break
        return done

    return median_rate(prepare, work, seconds)


def cartpole_steps(seconds: float, count: int = SINGLE * WINDOW) -> float:
    """Peer: steps per second of Gymnasium's CartPole, made likewise; a fallen pole is put up again, as it
    must be.
    """
    import gymnasium

    env = gymnasium.make("CartPole-v1", disable_env_checker=True)

    def work() -> int:
        for k in range(count):
            _, _, terminated, truncated, _ = env.step(k % 2)
            if terminated or truncated:
                env.reset()
        return count

    return median_rate(lambda: env.reset(seed=SEED), work, seconds)


def vector_decisions(states: Sequence[State], taken: np.ndarray, seconds: float, threads: int) -> float:
    """Decisions per second of the compiled batch, one call per decision of all servers."""
    import gymnasium

    import kv_cache_rl.gym  # noqa: F401

    compiled = gymnasium.VectorizeMode.VECTOR_ENTRY_POINT
    env = gymnasium.make_vec(ID, num_envs=len(states), vectorization_mode=compiled, threads=threads)
    return batch_rate(env, lambda: env.unwrapped.resume(states), taken, seconds)  # pyrefly: ignore[missing-attribute]


def synchronous_decisions(states: Sequence[State], taken: np.ndarray, seconds: float) -> float:
    """Peer: the same servers in Gymnasium's own SyncVectorEnv, which steps one after the other."""
    import gymnasium

    from kv_cache_rl.gym import ServingEnv

    env = gymnasium.vector.SyncVectorEnv([lambda: ServingEnv("medium") for _ in states])

    def resume() -> None:
        env.reset(seed=SEED)
        for one, state in zip(env.envs, states, strict=True):
            one.unwrapped.resume(state)  # pyrefly: ignore[missing-attribute]

    return batch_rate(env, resume, taken, seconds)


def batch_rate(env, resume: Callable[[], object], taken: np.ndarray, seconds: float) -> float:
    """Decisions per second of a vector environment under these actions."""

    def work() -> int:
        for actions in taken:
            env.step(actions)
        return taken.size

    rate = median_rate(resume, work, seconds)
    env.close()
    return rate

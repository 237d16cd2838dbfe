"""The measurements behind ``serving bench``: each returns one rate, compilation and warm-up left out."""

import os
import subprocess
import sys

import numpy as np

from kv_cache_rl.cli.measure import best_rate
from kv_cache_rl.search.serving_rollout import FOREVER, play
from kv_cache_rl.sim.serving.actions import ACTIONS
from kv_cache_rl.sim.serving.heuristics import FUNCTIONS, HEURISTICS, choose, new_memory
from kv_cache_rl.sim.serving.observe import RICH
from kv_cache_rl.sim.serving.spec import task
from kv_cache_rl.sim.serving.state import TICK, new_state

SEED = 30_000
DECISIONS = 2_000
"""Of each server in a batch, from its first on."""


def ticks_per_second(policy: str, seconds: float, **changes) -> float:
    """Ticks per second of one whole episode of medium under a compiled policy; views and masks are made for every decision."""
    start = new_state(task("medium", **changes), SEED)
    which, memory = FUNCTIONS.index(HEURISTICS[policy].function_name), new_memory(policy)
    seen, mask = np.zeros(len(RICH), np.float32), np.zeros(len(ACTIONS), np.int8)

    def work() -> int:
        state = start.copy()
        play(*state.columns, which, memory.copy(), seen, mask, FOREVER)
        return int(state.columns.book[TICK, 0])

    return best_rate(work, seconds)


def interpreted_ticks(policy: str, ticks: int = 100) -> float:
    """Peer of the compiled ticks: the same source run by the Python interpreter, on the first ticks of the episode."""
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "from kv_cache_rl.cli.serving.measure import ticks_per_second\n"
        f"print(ticks_per_second({policy!r}, 0.2, ticks={ticks}))"
    )
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def actions_of(policy: str, count: int) -> list[int]:
    """What a policy does in the first `count` decisions of the episode."""
    from kv_cache_rl.sim.serving.dynamics import act, look

    state = new_state(task("medium"), SEED)
    which, memory = FUNCTIONS.index(HEURISTICS[policy].function_name), new_memory(policy)
    seen, mask, taken = np.zeros(len(RICH), np.float32), np.zeros(len(ACTIONS), np.int8), []
    look(*state.columns, seen, mask)
    while len(taken) < count and not state.done:
        taken.append(int(choose(which, seen, mask, memory)))
        act(*state.columns, seen, mask, taken[-1])
    return taken


def gym_steps(seconds: float, count: int = 5_000) -> float:
    """Gymnasium steps per second of medium, made as users make it, under what lru does there."""
    import gymnasium

    import kv_cache_rl.gym  # noqa: F401

    env = gymnasium.make("KVServing-medium-v0")
    taken = actions_of("lru", count)

    def work() -> int:
        for action in taken:
            env.step(action)
        return len(taken)

    return reset_rate(env, work, seconds)


def reset_rate(env, work, seconds: float) -> float:
    """The best rate of `work`, each time on an environment that was reset, which does not count."""
    from time import perf_counter

    best, deadline = 0.0, perf_counter() + seconds
    env.reset(seed=SEED)
    work()
    while best == 0.0 or perf_counter() < deadline:
        env.reset(seed=SEED)
        started = perf_counter()
        done = work()
        best = max(best, done / (perf_counter() - started))
    return best


def cartpole_steps(seconds: float, count: int = 5_000) -> float:
    """Peer: steps per second of Gymnasium's CartPole, made likewise; a fallen pole is put up again, as it must be."""
    import gymnasium

    env = gymnasium.make("CartPole-v1", disable_env_checker=True)

    def work() -> int:
        for k in range(count):
            _, _, terminated, truncated, _ = env.step(k % 2)
            if terminated or truncated:
                env.reset()
        return count

    return reset_rate(env, work, seconds)


def batch_actions(num_envs: int, count: int = DECISIONS) -> np.ndarray:
    """What lru does in each of so many servers, int64 ``[count, num_envs]``."""
    from kv_cache_rl.gym import ServingVectorEnv

    env = ServingVectorEnv(num_envs, "medium", "rich")
    which, memory = FUNCTIONS.index("lru"), new_memory("lru")
    seen, info = env.reset(seed=SEED)
    taken = np.zeros((count, num_envs), np.int64)
    for k in range(count):
        masks = info["action_mask"]
        taken[k] = [choose(which, seen[e], masks[e], memory) for e in range(num_envs)]
        seen, _, _, _, info = env.step(taken[k])
    env.close()
    return taken


def vector_decisions(seconds: float, taken: np.ndarray, threads: int) -> float:
    """Decisions per second of the compiled batch, one call per decision of all servers, under what lru does there."""
    import gymnasium

    import kv_cache_rl.gym  # noqa: F401

    compiled = gymnasium.VectorizeMode.VECTOR_ENTRY_POINT
    env = gymnasium.make_vec("KVServing-medium-v0", num_envs=taken.shape[1], vectorization_mode=compiled, threads=threads)
    return batch_rate(env, taken, seconds)


def synchronous_decisions(seconds: float, taken: np.ndarray) -> float:
    """Peer: the same servers in Gymnasium's own SyncVectorEnv, which steps one after the other."""
    import gymnasium

    import kv_cache_rl.gym  # noqa: F401

    env = gymnasium.make_vec("KVServing-medium-v0", num_envs=taken.shape[1], vectorization_mode="sync")
    return batch_rate(env, taken, seconds)


def batch_rate(env, taken: np.ndarray, seconds: float) -> float:
    """Decisions per second of a vector environment under these actions."""

    def work() -> int:
        for actions in taken:
            env.step(actions)
        return taken.size

    rate = reset_rate(env, work, seconds)
    env.close()
    return rate

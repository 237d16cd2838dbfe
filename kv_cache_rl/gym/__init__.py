"""Gymnasium's faces of two worlds: `KVServing-{easy,medium,hard}-v0` and `KVEviction-{easy,medium,hard}-v0`.

Importing this registers them. ``gymnasium.make("KVServing-hard-v0", observation="rich", gpu_blocks=5_000)``
passes any setting of `sim.serving.spec.Scenario` on, ``gymnasium.make("KVEviction-hard-v0", split="eval")``
those of `eviction.EvictionEnv`. ``gymnasium.make_vec("KVServing-hard-v0", num_envs=64)`` gives the compiled
batch, and `sb3.ServingVecEnv` or `sb3.EvictionVecEnv` that batch for Stable-Baselines3.

Reading order: `requests`, `picture`, `face`; `single` and `stacks` (the serving world); `rows`, `batch`,
`vector`; `eviction`; `sb3`."""

from kv_cache_rl.extras import need

need("kv_cache_rl.gym", "gymnasium")

import gymnasium

from kv_cache_rl.gym.eviction.single import EvictionEnv
from kv_cache_rl.gym.eviction.vector import EvictionVectorEnv
from kv_cache_rl.gym.registered import Settings
from kv_cache_rl.gym.single import ServingEnv
from kv_cache_rl.gym.vector import ServingVectorEnv
from kv_cache_rl.sim.eviction.spec import DIFFICULTIES
from kv_cache_rl.sim.serving.spec import TASKS

IDS = tuple(f"KVServing-{name}-v0" for name in TASKS)
EVICTION_IDS = tuple(f"KVEviction-{name}-v0" for name in DIFFICULTIES)


def _register(name: str, single: str, vector: str, **settings: str) -> None:
    if name not in gymnasium.registry:
        gymnasium.register(
            name,
            entry_point=f"kv_cache_rl.gym.{single}",
            vector_entry_point=f"kv_cache_rl.gym.{vector}",
            kwargs=Settings(settings),
            # The checker looks at every step anew, which costs several times what the step does; tests run it
            # apart.
            disable_env_checker=True,
        )


for _id, _task in zip(IDS, TASKS, strict=True):
    _register(_id, "single:ServingEnv", "vector:ServingVectorEnv", task=_task)
for _id, _difficulty in zip(EVICTION_IDS, DIFFICULTIES, strict=True):
    _register(_id, "eviction.single:EvictionEnv", "eviction.vector:EvictionVectorEnv", difficulty=_difficulty)

__all__ = ["EVICTION_IDS", "IDS", "EvictionEnv", "EvictionVectorEnv", "ServingEnv", "ServingVectorEnv"]

"""The serving world with Gymnasium's faces: `KVServing-{easy,medium,hard}-v0`, one at a time or a batch.

Importing this registers them. ``gymnasium.make("KVServing-hard-v0", observation="rich", gpu_blocks=5_000)``
passes any setting of `sim.serving.spec.Scenario` on; ``gymnasium.make_vec("KVServing-hard-v0", num_envs=64)``
gives the compiled batch, and `sb3.ServingVecEnv` that batch for Stable-Baselines3. Reading order: `single`,
`picture`, `vector`, `stacks`, `sb3`."""

from kv_cache_rl.extras import need

need("kv_cache_rl.gym", "gymnasium")

import gymnasium

from kv_cache_rl.gym.registered import Settings
from kv_cache_rl.gym.single import ServingEnv
from kv_cache_rl.gym.vector import ServingVectorEnv
from kv_cache_rl.sim.serving.spec import TASKS

IDS = tuple(f"KVServing-{name}-v0" for name in TASKS)

for _name, _id in zip(TASKS, IDS, strict=True):
    if _id not in gymnasium.registry:
        gymnasium.register(
            _id,
            entry_point="kv_cache_rl.gym.single:ServingEnv",
            vector_entry_point="kv_cache_rl.gym.vector:ServingVectorEnv",
            kwargs=Settings(task=_name),
            # The checker looks at every step anew, which costs several times what the step does; tests run it
            # apart.
            disable_env_checker=True,
        )

__all__ = ["IDS", "ServingEnv", "ServingVectorEnv"]

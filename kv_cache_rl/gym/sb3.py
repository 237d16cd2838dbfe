"""The compiled batches for Stable-Baselines3: `PPO("MlpPolicy", ServingVecEnv("KVServing-hard-v0", 64))`.

`EvictionVecEnv("KVEviction-hard-v0", 64)` is the same for the other world.

SB3's vector environments and Gymnasium's share method names that mean different things (`step` gives four
values or five, `observation_space` is one server's or the batch's), so that no object can be both."""

from collections.abc import Sequence
from time import perf_counter
from typing import Any, ClassVar

from kv_cache_rl.extras import need

need("kv_cache_rl.gym.sb3", "stable_baselines3")

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from kv_cache_rl.gym.batch import Batch
from kv_cache_rl.gym.eviction.vector import EvictionVectorEnv
from kv_cache_rl.gym.requests import OF_THE_BATCH, PIXELS, RESET_MASK
from kv_cache_rl.gym.vector import ServingVectorEnv


class BatchVecEnv(VecEnv):
    """A batch of one world for every algorithm of Stable-Baselines3 and sb3-contrib.

    The infos are those of SB3's `DummyVecEnv` over `Monitor`: where an episode ends, they hold
    ``terminal_observation``, ``TimeLimit.truncated`` and ``episode`` (return ``r``, length ``l``, seconds
    ``t``) beside what the environment itself says of an episode that is over. `env_method("action_masks")`
    is what MaskablePPO asks for.
    """

    kind: ClassVar[type[Batch]]
    example: ClassVar[str]
    """An id."""

    def __init__(self, env: str | Batch, num_envs: int = 1, **settings: Any) -> None:
        """A batch, or so many environments of a registered id with settings of your own.

        Args:
            env: a batch made by `gymnasium.make_vec`, which from now on resets as SB3 wants it (same-step),
                or an id such as ``KVServing-hard-v0``.
            num_envs: of an id.
            settings: of an id; as for `gymnasium.make_vec`.

        Raises:
            Refused: something else is given, settings beside a batch, or bad settings.
        """
        self.batch = self._batch_of(env, num_envs, settings)
        self.batch.autoreset_mode = AutoresetMode.SAME_STEP
        self.spec = self.batch.spec
        self._actions: Any = None
        count, spaces = (
            self.batch.num_envs,
            (self.batch.single_observation_space, self.batch.single_action_space),
        )
        self._returns, self._lengths = np.zeros(count), np.zeros(count, np.int64)
        self._began = perf_counter()
        super().__init__(count, *spaces)

    def _batch_of(self, env: str | Batch, num_envs: int, settings: dict[str, Any]) -> Batch:
        """The batch that is given, or is made of an id."""
        found = gymnasium.make_vec(env, num_envs, **settings) if isinstance(env, str) else env
        if not isinstance(found, self.kind):
            raise self.kind.world.error(
                f"{type(found).__name__} is not the compiled batch; give an id, such as {self.example!r}, or "
                "what gymnasium.make_vec makes of it, without a wrapper"
            )
        if found is env and (settings or num_envs != 1):
            what = f"a batch has its {found.world.noun}s and settings already"
            raise found.world.error(f"{what}; give them to gymnasium.make_vec")
        return found

    def reset(self) -> np.ndarray:
        """The first views of all environments, with the seeds and options set before."""
        observed, info = self.batch.reset(seed=self._seeds)
        for k, options in enumerate(self._options):
            if options:
                # The same episode again, with options of its own.
                seeds: list[int | None] = [None] * self.num_envs
                begun = self.batch.episode_seeds
                assert begun is not None
                seeds[k] = int(begun[k])
                alone = {**options, RESET_MASK: np.arange(self.num_envs) == k}
                observed, info = self.batch.reset(seed=seeds, options=alone)
        self.reset_infos = self._each(info)
        self._returns[:], self._lengths[:] = 0.0, 0
        self._reset_seeds()
        self._reset_options()
        return observed

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Views, rewards (float32), which episodes ended, infos; the views are of the next episodes then."""
        observed, rewards, terminated, truncated, info = self.batch.step(self._actions)
        self._returns += rewards
        self._lengths += 1
        infos = self._each(info)
        over = terminated | truncated
        for k in np.flatnonzero(over).tolist():
            final = one_of(info["final_info"], k)
            self.reset_infos[k] = infos[k]
            infos[k] = final | {
                "terminal_observation": info["final_obs"][k],
                "TimeLimit.truncated": bool(truncated[k] and not terminated[k]),
                "episode": self._episode(k),
            }
        self._returns[over], self._lengths[over] = 0.0, 0
        return observed, rewards.astype(np.float32), over, infos

    def _each(self, info: dict[str, Any]) -> list[dict[str, Any]]:
        """What the batch's info says of every environment now, as an info for each."""
        names = [name for name in info if not name.startswith(("_", "final_"))]
        return [{name: info[name][k] for name in names} for k in range(self.num_envs)]

    def _episode(self, index: int) -> dict[str, float]:
        """What SB3's Monitor says of an episode that ended."""
        seconds = round(perf_counter() - self._began, 6)
        return {"r": round(float(self._returns[index]), 6), "l": int(self._lengths[index]), "t": seconds}

    def close(self) -> None:
        self.batch.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """An image of each environment, None unless the batch was made with ``render_mode="rgb_array"``."""
        return list(self.batch.call("render")) if self.render_mode == PIXELS else [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """This attribute of the environments, as SB3 means it: of a method, the method."""
        return [getattr(self.batch.environment(k), attr_name) for k in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Gives these environments an attribute: `scenario`, or one of your own (`Batch.set_attr`)."""
        chosen = list(self._get_indices(indices))
        self.batch.set_attr(attr_name, [value] * len(chosen), chosen)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """What this method gives for the environments.

        Raises:
            Refused: only the batch as a whole can do it.
        """
        chosen = self._get_indices(indices)
        if method_name == "action_masks":
            masks = self.batch.action_masks()
            return [masks[k] for k in chosen]
        if remedy := OF_THE_BATCH.get(method_name):
            raise self.batch.world.error(
                f"{method_name} cannot be called for single {self.batch.world.noun}s; {remedy}"
            )
        return [
            getattr(self.batch.environment(k), method_name)(*method_args, **method_kwargs) for k in chosen
        ]

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """True for SB3's Monitor, whose records the infos hold."""
        return [wrapper_class is Monitor] * len(list(self._get_indices(indices)))


class ServingVecEnv(BatchVecEnv):
    """A batch of servers for Stable-Baselines3."""

    kind, example = ServingVectorEnv, "KVServing-hard-v0"


class EvictionVecEnv(BatchVecEnv):
    """A batch of caches for Stable-Baselines3."""

    kind, example = EvictionVectorEnv, "KVEviction-hard-v0"


def one_of(info: dict[str, Any], index: int) -> dict[str, Any]:
    """What Gymnasium's layout of infos, with ``_name`` beside ``name``, holds for one environment."""
    return {
        name: one_of(values, index) if isinstance(values, dict) else values[index]
        for name, values in info.items()
        if not name.startswith("_") and info.get(f"_{name}", ())[index]
    }

"""The compiled batch for Stable-Baselines3: `PPO("MlpPolicy", ServingVecEnv("KVServing-hard-v0", 64))`.

SB3's vector environments and Gymnasium's share method names that mean different things (`step` gives four
values or five, `observation_space` is one server's or the batch's), so that no object can be both."""

from collections.abc import Sequence
from time import perf_counter
from typing import Any

from kv_cache_rl.extras import need

need("kv_cache_rl.gym.sb3", "stable_baselines3")

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from kv_cache_rl.gym.requests import OF_THE_BATCH, RESET_MASK
from kv_cache_rl.gym.single import PIXELS
from kv_cache_rl.gym.vector import ServingVectorEnv
from kv_cache_rl.sim.serving.spec import ServingError


class ServingVecEnv(VecEnv):
    """A batch of servers for every algorithm of Stable-Baselines3 and sb3-contrib.

    The infos are those of SB3's `DummyVecEnv` over `Monitor`: where an episode ends, they hold
    ``terminal_observation``, ``TimeLimit.truncated`` and ``episode`` (return ``r``, length ``l``, seconds
    ``t``) beside the environment's own ``score``, ``crashed`` and ``report``. `env_method("action_masks")`
    is what MaskablePPO asks for.
    """

    def __init__(self, env: str | ServingVectorEnv, num_envs: int = 1, **settings: Any) -> None:
        """A batch, or so many servers of a registered id with settings of your own.

        Args:
            env: a batch made by `gymnasium.make_vec`, which from now on resets as SB3 wants it (same-step),
                or an id such as ``KVServing-hard-v0``.
            num_envs: of an id.
            settings: of an id; as for `gymnasium.make_vec`.

        Raises:
            ServingError: something else is given, settings beside a batch, or bad settings.
        """
        self.batch = batch_of(env, num_envs, settings)
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

    def reset(self) -> np.ndarray:
        """The first views of all servers, ``[num_envs, 20]`` or 24, with the seeds and options set before."""
        observed, info = self.batch.reset(seed=self._seeds)
        for k, options in enumerate(self._options):
            if options:
                # The same episode again, with settings of its own.
                seeds: list[int | None] = [None] * self.num_envs
                seeds[k] = self.batch.state(k).seed
                alone = {**options, RESET_MASK: np.arange(self.num_envs) == k}
                observed, info = self.batch.reset(seed=seeds, options=alone)
        self.reset_infos = [{"action_mask": mask} for mask in info["action_mask"]]
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
        infos: list[dict[str, Any]] = [{"action_mask": mask} for mask in info["action_mask"]]
        over = terminated | truncated
        for k in np.flatnonzero(over).tolist():
            final = one_of(info["final_info"], k)
            infos[k] = final | {
                "terminal_observation": info["final_obs"][k],
                "TimeLimit.truncated": bool(truncated[k] and not terminated[k]),
                "episode": self._episode(k),
            }
            self.reset_infos[k] = {"action_mask": info["action_mask"][k]}
        self._returns[over], self._lengths[over] = 0.0, 0
        return observed, rewards.astype(np.float32), over, infos

    def _episode(self, index: int) -> dict[str, float]:
        """What SB3's Monitor says of an episode that ended."""
        seconds = round(perf_counter() - self._began, 6)
        return {"r": round(float(self._returns[index]), 6), "l": int(self._lengths[index]), "t": seconds}

    def close(self) -> None:
        self.batch.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """An image of each server, None unless the batch was made with ``render_mode="rgb_array"``."""
        return list(self.batch.call("render")) if self.render_mode == PIXELS else [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """This attribute of the servers, as SB3 means it: of a method, the method."""
        return [getattr(self.batch.server(k), attr_name) for k in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Gives these servers an attribute: `scenario`, or one of your own (`ServingVectorEnv.set_attr`)."""
        chosen = list(self._get_indices(indices))
        self.batch.set_attr(attr_name, [value] * len(chosen), chosen)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """What this method gives for the servers.

        Raises:
            ServingError: only the batch as a whole can do it.
        """
        chosen = self._get_indices(indices)
        if method_name == "action_masks":
            masks = self.batch.action_masks()
            return [masks[k] for k in chosen]
        if remedy := OF_THE_BATCH.get(method_name):
            raise ServingError(f"{method_name} cannot be called for single servers; {remedy}")
        return [getattr(self.batch.server(k), method_name)(*method_args, **method_kwargs) for k in chosen]

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """True for SB3's Monitor, whose records the infos hold."""
        return [wrapper_class is Monitor] * len(list(self._get_indices(indices)))


def batch_of(env: str | ServingVectorEnv, num_envs: int, settings: dict[str, Any]) -> ServingVectorEnv:
    """The batch that is given, or is made of an id. Raises ServingError where it can be neither."""
    found = gymnasium.make_vec(env, num_envs, **settings) if isinstance(env, str) else env
    if not isinstance(found, ServingVectorEnv):
        raise ServingError(
            f"{type(found).__name__} is not the compiled batch; give an id, such as 'KVServing-hard-v0', or "
            "what gymnasium.make_vec makes of it, without a wrapper"
        )
    if found is env and (settings or num_envs != 1):
        raise ServingError("a batch has its servers and settings already; give them to gymnasium.make_vec")
    return found


def one_of(info: dict[str, Any], index: int) -> dict[str, Any]:
    """What Gymnasium's layout of infos, with ``_name`` beside ``name``, holds for one server."""
    return {
        name: one_of(values, index) if isinstance(values, dict) else values[index]
        for name, values in info.items()
        if not name.startswith("_") and info.get(f"_{name}", ())[index]
    }

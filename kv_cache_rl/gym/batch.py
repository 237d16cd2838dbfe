"""What every compiled batch does as a Gymnasium vector environment: autoreset, partial resets, attributes."""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from kv_cache_rl.core.numbers import whole_number
from kv_cache_rl.gym.face import Face
from kv_cache_rl.gym.requests import (
    OF_THE_BATCH,
    PIXELS,
    RESET_MASK,
    TEXT,
    World,
    checked_actions,
    checked_mask,
    mode_of,
    next_seed,
    offered,
    per_environment,
    seeds_of,
)
from kv_cache_rl.gym.rows import Rows, unbegun
from kv_cache_rl.gym.spaces import Choices

MOST, MOST_STEPS = 1 << 20, 1 << 62

R = TypeVar("R", bound=Rows)


class Batch(gymnasium.vector.VectorEnv, Generic[R]):
    """`num_envs` environments of one world in stacked buffers.

    Autoreset is one of Gymnasium's modes. *next-step* (the default): the step after an episode's end ignores
    the action of that environment, returns the first observation of its next episode, reward 0 and neither
    flag. *same-step*: the step that ends an episode returns the first observation of the next; the last one
    is in ``info["final_obs"]``, its info in ``info["final_info"]``. *disabled*: episodes begin by
    ``reset(options={"reset_mask": over})`` alone.
    """

    metadata = {  # noqa: RUF012
        "autoreset_mode": AutoresetMode.NEXT_STEP,
        "render_modes": [TEXT, PIXELS],
        "render_fps": Face.metadata["render_fps"],
    }
    world: World
    _stacks: R

    def _begin_batch(
        self, one: Face, num_envs: int, threads: int, autoreset_mode: Any, max_episode_steps: int | None
    ) -> None:
        """Sets what every batch has; `one` is what its environments have in common.

        Raises:
            Refused: a number out of range, or an unknown mode.
        """
        self.num_envs, self.threads = (
            whole_number(name, n, 1, MOST, self.world.error)
            for name, n in (("num_envs", num_envs), ("threads", threads))
        )
        limit = MOST_STEPS if max_episode_steps is None else max_episode_steps
        self._limit = whole_number("max_episode_steps", limit, 1, MOST_STEPS, self.world.error)
        self._common = one
        self.render_mode = one.render_mode
        self.autoreset_mode = mode_of(autoreset_mode, self.world)
        self.single_observation_space, self.single_action_space = one.observation_space, one.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = Choices([self.world.actions] * self.num_envs)
        assert one.observation_space.shape is not None
        self._shown = one.observation_space.shape[0]
        self._over = np.zeros(self.num_envs, bool)
        self._steps = np.zeros(self.num_envs, np.int64)
        self._actions: np.ndarray | None = None
        self._streams: list[tuple[np.random.Generator, int] | None] = [None] * self.num_envs
        # Attributes that `set_attr` gave to single environments.
        self._own: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]

    def _asked(self, options: Any) -> Any:
        """What options ask of the episodes that begin now, None where they ask nothing."""
        raise NotImplementedError

    def _put_new(self, index: int, seed: int, asked: Any) -> None:
        """Puts the first moment of a new episode in row `index`."""
        raise NotImplementedError

    def _ended(self) -> tuple[np.ndarray, np.ndarray]:
        """Which episodes are over by themselves, and which of them are terminated, bool ``[num_envs]``."""
        raise NotImplementedError

    def _final(self, index: int) -> dict[str, Any]:
        """What the last info of an episode says beyond the mask; may settle its last reward."""
        raise NotImplementedError

    def _lend(self, index: int, one: Face) -> None:
        """Gives an environment of its own what row `index` holds."""
        raise NotImplementedError

    @property
    def episode_seeds(self) -> np.ndarray | None:
        """Seed of each environment's episode, uint64 ``[num_envs]``; None before the first. Not in any info:
        it determines all that will arrive.
        """
        raise NotImplementedError

    def _also(self) -> dict[str, np.ndarray]:
        """What every info says of all environments beside their masks."""
        return {}

    @property
    def autoreset_mode(self) -> AutoresetMode:
        """When the next episode of an environment begins; may be changed between episodes."""
        return self.metadata["autoreset_mode"]

    @autoreset_mode.setter
    def autoreset_mode(self, mode: AutoresetMode | str) -> None:
        self.metadata = self.metadata | {"autoreset_mode": mode_of(mode, self.world)}

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """New episodes of all environments, or of those of a mask.

        Args:
            seed: one number for seed, seed + 1, ..., or one for each environment (None: its next).
            options: those of a single environment, for the episodes that begin now; those that follow by
                themselves have the environment's own again. ``{"reset_mask": mask}``, bool ``[num_envs]``,
                resets these alone; the others stand as they are.

        Raises:
            Refused: a seed out of range, a list of another length, unknown options, or a mask that names
                none or leaves out one that has not begun.
        """
        seeds = seeds_of(seed, self.num_envs, self.world)
        asked, mask = self._asked(options), checked_mask(options, self.num_envs, self.world)
        chosen = range(self.num_envs) if mask is None else np.flatnonzero(mask).tolist()
        waiting = [k for k in range(self.num_envs) if not self._stacks.begun(k)]
        if mask is not None and waiting:
            first = f"{self.world.noun} {waiting[0]} has not begun"
            raise self.world.error(f"{first}; reset all {self.world.noun}s first, without reset_mask")
        for k in chosen:
            self._begin(k, seeds[k], asked)
        return self._now()

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One decision of every environment.

        Raises:
            Refused: before the first `reset`, the actions are not one number in range for each environment,
                or an episode is over and autoreset is disabled.
        """
        numbers = checked_actions(actions, self.num_envs, self.world)
        if not self._stacks.begun(0):
            raise unbegun(self.world.error)
        skip = self._over.copy()
        if self.autoreset_mode is AutoresetMode.DISABLED and skip.any():
            which = f"the episode of {self.world.noun} {np.flatnonzero(skip)[0]} is over"
            raise self.world.error(f"{which}; reset it first, with options={{{RESET_MASK!r}: mask}}")
        self._stacks.step(numbers, skip)
        self._actions, self._steps = numbers, self._steps + 1
        for k in places(skip):
            self._begin(k)
        ended, terminated = self._ended()
        late = self._steps >= self._limit
        truncated = ended & ~terminated | late
        self._over = ended | late
        finals = {k: self._final(k) if ended[k] else {} for k in places(self._over)}
        # What ends is recorded before the next episode takes its place.
        rewards, said = self._stacks.rewards.copy(), self._ends(finals)
        observed, info = self._now()
        return observed, rewards, terminated, truncated, said | info

    def _ends(self, finals: dict[int, dict[str, Any]]) -> dict[str, Any]:
        """What the info says of episodes that are over; in same-step mode the next ones begin."""
        info: dict[str, Any] = {}
        also = self._also() if finals else {}
        for k, final in finals.items():
            if self.autoreset_mode is AutoresetMode.SAME_STEP:
                shown = {name: values[k] for name, values in also.items()}
                final = {"action_mask": self._stacks.masks[k].copy(), **shown, **final}
                last = self._stacks.observed[k, : self._shown].copy()
                final = {"final_obs": last, "final_info": final}
                self._begin(k)
            info = self._add_info(info, final, k)
        return info

    def action_masks(self) -> np.ndarray:
        """Which actions are not refused now, bool ``[num_envs, actions]``."""
        return self._stacks.masks.astype(bool)

    def render(self) -> tuple[Any, ...] | None:
        """The state of each environment: texts (``ansi``), images (``rgb_array``), or None."""
        return None if self.render_mode is None else self.call("render")

    def state(self, index: int) -> Any:
        """Environment `index` as it stands: a view, valid until the next `reset` or `step`; `copy()` it to
        keep it.

        Raises:
            Refused: before the first `reset`.
        """
        return self._stacks.state(index)

    def environment(self, index: int) -> Any:
        """Environment `index` as one of its own, to be read: valid until the next `reset` or `step`."""
        one = type(self._common).__new__(type(self._common))
        one.__dict__ |= vars(self._common) | self._own[index]
        if self._stacks.begun(index):
            self._lend(index, one)
        if self._actions is not None and self._steps[index]:
            one._last = int(self._actions[index]), float(self._stacks.rewards[index])
        one._observed, one._mask = self._stacks.observed[index], self._stacks.masks[index]
        one._np_random, one._np_random_seed = self._stream(index)
        return one

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """What this method gives for each environment, or this attribute's values.

        Raises:
            AttributeError: an environment has none of this name.
            Refused: only the batch as a whole can do it.
        """
        if remedy := OF_THE_BATCH.get(name):
            raise self.world.error(f"{name} cannot be called for single {self.world.noun}s; {remedy}")
        found = [getattr(self.environment(k), name) for k in range(self.num_envs)]
        return tuple(one(*args, **kwargs) if callable(one) else one for one in found)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """This attribute of each environment; of a method, what it gives."""
        return self.call(name)

    def set_attr(self, name: str, values: Any, indices: Sequence[int] | None = None) -> None:
        """Gives environments an attribute: a list or tuple gives each its own, anything else is for all.

        `scenario` is what the episodes that an environment begins from now on are made of. Names that an
        environment does not have are kept for `get_attr`.

        Args:
            indices: which environments; None: all.

        Raises:
            Refused: a list of another length, something else as a scenario, or an attribute that is fixed.
        """
        chosen = range(self.num_envs) if indices is None else indices
        each = per_environment(values, len(chosen), self.world)
        if name == "scenario":
            for one in each:
                if not isinstance(one, self.world.scenario):
                    raise self.world.error(f"scenario is {one!r}; give a {self.world.make}")
        elif hasattr(self._common, name):
            raise self.world.error(
                f"{name} is the same for all {self.world.noun}s and fixed; "
                "set 'scenario', or make a new batch"
            )
        for k, value in zip(chosen, each, strict=True):
            self._own[k][name] = value

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:  # pyrefly: ignore[bad-override]
        """What each environment's next seeds are drawn from."""
        return self.get_attr("np_random")

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # pyrefly: ignore[bad-override]
        """What each environment was last seeded with."""
        return self.get_attr("np_random_seed")

    def close_extras(self, **kwargs: Any) -> None:
        self._stacks.close()

    def _stream(self, index: int, seed: int | None = None) -> tuple[np.random.Generator, int]:
        """What the seeds of environment `index` are drawn from, begun anew with a seed."""
        stream = self._streams[index]
        if seed is not None or stream is None:
            stream = self._streams[index] = seeding.np_random(seed)
        return stream

    def _begin(self, index: int, seed: int | None = None, asked: Any = None) -> None:
        """Puts a new episode in row `index`: its next, where nothing else is given."""
        stream, _ = self._stream(index, seed)
        self._put_new(index, next_seed(stream) if seed is None else seed, asked)
        self._over[index], self._steps[index] = False, 0

    def _now(self) -> tuple[np.ndarray, dict[str, Any]]:
        """What is shown of all environments, and what the infos say of them."""
        info = {"action_mask": self._stacks.masks.copy()} | self._also()
        return self._stacks.observed[:, : self._shown].copy(), info


def places(flags: np.ndarray) -> list[int]:
    """Where flags are set: almost always nowhere, which is asked first since it is answered fastest."""
    return np.flatnonzero(flags).tolist() if flags.any() else []


def drawn_by_batches(mode: Any) -> str | None:
    """The render mode of a batch, or None, with a warning, where it is not one of a batch's."""
    return offered(mode, Batch.metadata["render_modes"])

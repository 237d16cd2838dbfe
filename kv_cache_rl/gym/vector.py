"""Many servers as one Gymnasium vector environment."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from kv_cache_rl.gym.requests import (
    OF_THE_BATCH,
    RESET_MASK,
    checked_actions,
    checked_mask,
    mode_of,
    per_server,
    seeds_of,
)
from kv_cache_rl.gym.single import (
    PIXELS,
    TEXT,
    ServingEnv,
    changes_of,
    final_info,
    next_seed,
    offered,
    scenario_of,
)
from kv_cache_rl.gym.spaces import Choices
from kv_cache_rl.gym.stacks import Stacks
from kv_cache_rl.sim.serving.actions import ACTIONS
from kv_cache_rl.sim.serving.dynamics import new_state
from kv_cache_rl.sim.serving.spec import Scenario, ServingError, whole
from kv_cache_rl.sim.serving.state import State

MOST, MOST_STEPS = 1 << 20, 1 << 62


class ServingVectorEnv(gymnasium.vector.VectorEnv):
    """`num_envs` servers of one task; server k plays as a `ServingEnv` would that was reset with seed + k.

    Autoreset is one of Gymnasium's modes. *next-step* (the default): the step after an episode's end ignores
    the action of that server, returns the first observation of its next episode, reward 0 and neither flag.
    *same-step*: the step that ends an episode returns the first observation of the next; the last one is in
    ``info["final_obs"]``, its info in ``info["final_info"]``. *disabled*: episodes begin by
    ``reset(options={"reset_mask": over})`` alone.

    ``info["action_mask"]`` is int8 ``[num_envs, 18]``; where an episode ends, ``score``, ``crashed`` and
    ``report`` are there too, laid out as Gymnasium does (with ``_score`` ...).
    """

    metadata = {  # noqa: RUF012
        "autoreset_mode": AutoresetMode.NEXT_STEP,
        "render_modes": [TEXT, PIXELS],
        "render_fps": ServingEnv.metadata["render_fps"],
    }

    def __init__(
        self,
        num_envs: int = 1,
        task: str = "medium",
        observation: str = "plain",
        threads: int = 2,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        **settings: Any,
    ) -> None:
        """Servers of a task, with settings of your own.

        Args:
            max_episode_steps: decisions after which an episode is truncated, as Gymnasium's TimeLimit does.

        Raises:
            ServingError: an unknown task, face, mode or setting, or a number out of range.
        """
        self.num_envs, threads = (
            whole(name, n, 1, MOST) for name, n in (("num_envs", num_envs), ("threads", threads))
        )
        limit = MOST_STEPS if max_episode_steps is None else max_episode_steps
        self._limit = whole("max_episode_steps", limit, 1, MOST_STEPS)
        self.render_mode = offered(render_mode, self.metadata["render_modes"])
        self.autoreset_mode = mode_of(autoreset_mode)
        # What every server has in common.
        self._common = one = ServingEnv(task, observation, self.render_mode, **settings)
        self.scenario, self.task, self.settings = one.scenario, one.task, one.settings
        self.observation = observation
        self.single_observation_space, self.single_action_space = one.observation_space, one.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = Choices([len(ACTIONS)] * self.num_envs)
        self._shown = one._shown
        self._stacks = Stacks(self.num_envs, threads)
        self._over = np.zeros(self.num_envs, bool)
        self._steps = np.zeros(self.num_envs, np.int64)
        self._actions: np.ndarray | None = None
        self._streams: list[tuple[np.random.Generator, int] | None] = [None] * self.num_envs
        # Attributes that `set_attr` gave to single servers.
        self._own: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]

    @property
    def autoreset_mode(self) -> AutoresetMode:
        """When the next episode of a server begins; may be changed between episodes."""
        return self.metadata["autoreset_mode"]

    @autoreset_mode.setter
    def autoreset_mode(self, mode: AutoresetMode | str) -> None:
        self.metadata = self.metadata | {"autoreset_mode": mode_of(mode)}

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """All servers, or those of a mask, empty at second 0.

        Args:
            seed: one number for seed, seed + 1, ..., or one for each server (None: its next).
            options: ``{"settings": {...}}`` changes settings for the episodes that begin now; those that
                follow by themselves have the environment's own again. ``{"reset_mask": mask}``, bool
                ``[num_envs]``, resets these servers alone; the others stand as they are.

        Raises:
            ServingError: a seed out of range, a list of another length, unknown settings, or a mask that
                names no server or leaves out one that has not begun.
        """
        seeds = seeds_of(seed, self.num_envs)
        changes, mask = changes_of(options, RESET_MASK), checked_mask(options, self.num_envs)
        scenario = scenario_of(self.task, self.settings | changes) if changes else None
        chosen = range(self.num_envs) if mask is None else np.flatnonzero(mask).tolist()
        unbegun = [k for k, state in enumerate(self._stacks.states) if state is None]
        if mask is not None and unbegun:
            raise ServingError(
                f"server {unbegun[0]} has not begun; reset all servers first, without reset_mask"
            )
        for k in chosen:
            self._begin(k, seeds[k], scenario)
        return self._now()

    def resume(self, states: Sequence[State]) -> tuple[np.ndarray, dict[str, Any]]:
        """Goes on from copies of servers in the middle of their episodes; those that follow have its own
        settings.

        Raises:
            ServingError: they are not as many as there are servers.
        """
        if len(states) != self.num_envs:
            raise ServingError(f"{len(states)} states for {self.num_envs} servers; give one for each")
        for k, state in enumerate(states):
            self._put(k, state)
        return self._now()

    @property
    def episode_seeds(self) -> np.ndarray | None:
        """Seed of the traffic of each server's episode, uint64 ``[num_envs]``; None before the first. Not in
        any info: it determines all that will arrive.
        """
        seeds = [state.seed for state in self._stacks.states if state is not None]
        return np.array(seeds, np.uint64) if seeds else None

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One decision of every server.

        Raises:
            ServingError: before the first `reset`, the actions are not one number from 0 to 17 for each
                server, or an episode is over and autoreset is disabled.
        """
        numbers = checked_actions(actions, self.num_envs)
        if self._stacks.states[0] is None:
            raise ServingError("no episode is under way; call reset() first")
        skip = self._over.copy()
        if self.autoreset_mode is AutoresetMode.DISABLED and skip.any():
            remedy = f"reset it first, with options={{{RESET_MASK!r}: mask}}"
            raise ServingError(f"the episode of server {np.flatnonzero(skip)[0]} is over; {remedy}")
        self._stacks.step(numbers, skip)
        self._actions, self._steps = numbers, self._steps + 1
        for k in np.flatnonzero(skip).tolist():
            self._begin(k)
        books = self._stacks.books
        ended, late = books["alive"] == 0, self._steps >= self._limit
        terminated = ended & (books["crash"] != 0)
        truncated = ended & ~terminated | late
        self._over = ended | late
        # What ends is recorded before the next episode takes its place.
        rewards, said = self._stacks.rewards.copy(), self._ends(ended)
        observed, info = self._now()
        return observed, rewards, terminated, truncated, said | info

    def _ends(self, ended: np.ndarray) -> dict[str, Any]:
        """What the info says of episodes that are over; in same-step mode the next ones begin."""
        info: dict[str, Any] = {}
        for k in np.flatnonzero(self._over).tolist():
            final = final_info(self.state(k)) if ended[k] else {}
            if self.autoreset_mode is AutoresetMode.SAME_STEP:
                final = {"action_mask": self._stacks.masks[k].copy(), **final}
                last = self._stacks.observed[k, : self._shown].copy()
                final = {"final_obs": last, "final_info": final}
                self._begin(k)
            info = self._add_info(info, final, k)
        return info

    def action_masks(self) -> np.ndarray:
        """Which actions have a target now, bool ``[num_envs, 18]``."""
        return self._stacks.masks.astype(bool)

    def render(self) -> tuple[Any, ...] | None:
        """The state of each server: texts (``ansi``), images (``rgb_array``), or None."""
        return None if self.render_mode is None else self.call("render")

    def state(self, index: int) -> State:
        """Server `index` as it stands: a view, valid until the next `reset` or `step`; `copy()` it to keep
        it.

        Raises:
            ServingError: before the first `reset`.
        """
        return self._stacks.state(index)

    def server(self, index: int) -> ServingEnv:
        """Server `index` as an environment of its own, to be read: valid until the next `reset` or `step`."""
        one = ServingEnv.__new__(ServingEnv)
        one.__dict__ |= vars(self._common) | self._own[index]
        if self._stacks.states[index] is not None:
            one.state = self.state(index)
        if self._actions is not None and self._steps[index]:
            one._last = int(self._actions[index]), float(self._stacks.rewards[index])
        one._observed, one._mask = self._stacks.observed[index], self._stacks.masks[index]
        one._np_random, one._np_random_seed = self._stream(index)
        return one

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """What this method gives for each server, or this attribute's values.

        Raises:
            AttributeError: a server has none of this name.
            ServingError: only the batch as a whole can do it.
        """
        if remedy := OF_THE_BATCH.get(name):
            raise ServingError(f"{name} cannot be called for single servers; {remedy}")
        found = [getattr(self.server(k), name) for k in range(self.num_envs)]
        return tuple(one(*args, **kwargs) if callable(one) else one for one in found)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """This attribute of each server; of a method, what it gives."""
        return self.call(name)

    def set_attr(self, name: str, values: Any, indices: Sequence[int] | None = None) -> None:
        """Gives servers an attribute: a list or tuple gives each its own, anything else is for all.

        `scenario` is what the episodes that a server begins from now on are made of. Names that a server
        does not have are kept for `get_attr`.

        Args:
            indices: which servers; None: all.

        Raises:
            ServingError: a list of another length, something else as a scenario, or an attribute that is
                fixed.
        """
        chosen = range(self.num_envs) if indices is None else indices
        each = per_server(values, len(chosen))
        if name == "scenario":
            for one in each:
                if not isinstance(one, Scenario):
                    raise ServingError(
                        f"scenario is {one!r}; give a sim.serving.spec.Scenario, such as task('hard')"
                    )
        elif hasattr(self._common, name):
            raise ServingError(
                f"{name} is the same for all servers and fixed; set 'scenario', or make a new batch"
            )
        for k, value in zip(chosen, each, strict=True):
            self._own[k][name] = value

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:  # pyrefly: ignore[bad-override]
        """What each server's next seeds are drawn from."""
        return self.get_attr("np_random")

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # pyrefly: ignore[bad-override]
        """What each server was last seeded with."""
        return self.get_attr("np_random_seed")

    def close_extras(self, **kwargs: Any) -> None:
        self._stacks.close()

    def _stream(self, index: int, seed: int | None = None) -> tuple[np.random.Generator, int]:
        """What the seeds of server `index` are drawn from, begun anew with a seed."""
        stream = self._streams[index]
        if seed is not None or stream is None:
            stream = self._streams[index] = seeding.np_random(seed)
        return stream

    def _begin(self, index: int, seed: int | None = None, scenario: Scenario | None = None) -> None:
        """Puts a new episode in place of server `index`: its next, where nothing else is given."""
        stream, _ = self._stream(index, seed)
        usual = self._own[index].get("scenario", self.scenario)
        self._put(index, new_state(scenario or usual, next_seed(stream) if seed is None else seed))

    def _put(self, index: int, state: State) -> None:
        """Puts a copy of a server in place of server `index`."""
        self._stacks.put(index, state)
        self._over[index], self._steps[index] = False, 0

    def _now(self) -> tuple[np.ndarray, dict[str, Any]]:
        """What is shown of all servers, and their masks."""
        return self._stacks.observed[:, : self._shown].copy(), {"action_mask": self._stacks.masks.copy()}

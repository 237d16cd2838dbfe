"""Many servers as one Gymnasium vector environment: their buffers stacked, stepped by compiled code on
several threads.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from kv_cache_rl.gym.single import (
    FACES,
    checked_seed,
    final_info,
    next_seed,
    observation_space,
    scenario_of,
    with_options,
)
from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.serving.actions import ACTIONS
from kv_cache_rl.sim.serving.columns import BOOK, BOOK_WORDS, columns_of, fixed_size, live_size
from kv_cache_rl.sim.serving.dynamics import new_state, step
from kv_cache_rl.sim.serving.observe import RICH, look
from kv_cache_rl.sim.serving.spec import Scenario, ServingError, whole
from kv_cache_rl.sim.serving.state import State

MOST = 1 << 20
WORTH_A_THREAD = 128
"""Servers below which handing a share to another thread takes longer than stepping it. Measured: 128 servers
go 1.5 times faster on one thread than on two, 256 go 1.35 times faster on two."""


class ServingVectorEnv(gymnasium.vector.VectorEnv):
    """`num_envs` servers of one task; server k plays exactly as a `ServingEnv` would that was reset with seed
    + k.

    Autoreset is *next-step*, Gymnasium's default: the step after an episode's end ignores the action of that
    server, returns the first observation of its next episode, reward 0 and neither flag.
    ``info["action_mask"]`` is int8 ``[num_envs, 18]``; where an episode ends, ``score``, ``crashed`` and
    ``report`` are there too, laid out as Gymnasium does (with ``_score`` ...)."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        task: str = "medium",
        observation: str = "plain",
        threads: int = 2,
        **settings: Any,
    ) -> None:
        """Servers of a task, with settings of your own.

        Raises:
            ServingError: an unknown task, face or setting, or a number out of range.
        """
        num_envs, threads = (
            whole(name, n, 1, MOST) for name, n in (("num_envs", num_envs), ("threads", threads))
        )
        self.scenario = scenario_of(task, settings)
        self.task, self.settings, self.observation = task, settings, observation
        self.num_envs, self.threads = num_envs, threads
        self.single_observation_space = observation_space(observation)
        self.single_action_space = gymnasium.spaces.Discrete(len(ACTIONS))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._shown = FACES[observation]
        self._observed = np.zeros((num_envs, len(RICH)), np.float32)
        self._masks = np.zeros((num_envs, len(ACTIONS)), np.int8)
        self._rewards = np.zeros(num_envs)
        self._over = np.zeros(num_envs, bool)
        self._states: list[State | None] = [None] * num_envs
        self._streams: list[np.random.Generator | None] = [None] * num_envs
        # Requests that a row of the stacks has room for.
        self._room = 0
        self._fixed = self._live = np.zeros((num_envs, 0), np.int64)
        self._pool: ThreadPoolExecutor | None = None

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """All servers empty at second 0.

        Args:
            seed: one number for seed, seed + 1, ..., or one for each server (None: its next).
            options: ``{"settings": {...}}`` changes settings for the episodes that begin now; those that
                follow by themselves have the environment's own again.

        Raises:
            ServingError: a seed out of range, a list of another length, or unknown options or settings.
        """
        seeds = self._seeds(seed)
        scenario = with_options(self.scenario, self.task, self.settings, options)
        for k, given in enumerate(seeds):
            self._begin(k, scenario, given)
        self._over[:] = False
        return self._shown_now(), {"action_mask": self._masks.copy()}

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
        self._over[:] = False
        return self._shown_now(), {"action_mask": self._masks.copy()}

    @property
    def episode_seeds(self) -> np.ndarray | None:
        """Seed of the traffic of each server's episode, uint64 ``[num_envs]``; None before the first. Not in
        any info: it determines all that will arrive.
        """
        seeds = [state.seed for state in self._states if state is not None]
        return np.array(seeds, np.uint64) if seeds else None

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One decision of every server.

        Raises:
            ServingError: before the first `reset`, or the actions are not one number from 0 to 17 for each
                server.
        """
        numbers = self._checked(actions)
        if not self._room:
            raise ServingError("no episode is under way; call reset() first")
        again = np.flatnonzero(self._over)
        skip = self._over.copy()
        self._each(numbers, skip)
        for k in again:
            self._begin(int(k), self.scenario, None)
        books = self._live[:, :BOOK_WORDS].view(BOOK)[:, 0]
        self._over = books["alive"] == 0
        crashed = self._over & (books["crash"] != 0)
        info: dict[str, Any] = {"action_mask": self._masks.copy()}
        for k in np.flatnonzero(self._over):
            info = self._add_info(info, final_info(self.state(int(k))), int(k))
        return self._shown_now(), self._rewards.copy(), crashed, self._over & ~crashed, info

    def action_masks(self) -> np.ndarray:
        """Which actions have a target now, bool ``[num_envs, 18]``."""
        return self._masks.astype(bool)

    def state(self, index: int) -> State:
        """Server `index` as it stands: a view, valid until the next `reset` or `step`; `copy()` it to keep
        it.

        Raises:
            ServingError: before the first `reset`.
        """
        state = self._states[index]
        if state is None:
            raise ServingError("no episode is under way; call reset() first")
        fixed, live = self._fixed[index, : len(state.fixed)], self._live[index, : len(state.live)]
        return State(state.scenario, state.seed, state.load, fixed, live)

    def close_extras(self, **kwargs: Any) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def __getstate__(self) -> dict[str, Any]:
        # Threads are made anew where they are needed.
        return self.__dict__ | {"_pool": None}

    def _seeds(self, seed: int | list[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (list, tuple, np.ndarray)):
            if len(seed) != self.num_envs:
                raise ServingError(
                    f"{len(seed)} seeds for {self.num_envs} servers; give one number, or one for each"
                )
            return [checked_seed(one) for one in seed]
        checked_seed(seed)
        return [checked_seed(int(seed) + k) for k in range(self.num_envs)]

    def _checked(self, actions: Any) -> np.ndarray:
        numbers = np.asarray(actions)
        if numbers.shape != (self.num_envs,) or numbers.dtype.kind not in "iu":
            raise ServingError(
                f"actions have shape {numbers.shape} and type {numbers.dtype}; "
                f"give {self.num_envs} whole numbers from 0 to 17"
            )
        if numbers.min() < 0 or numbers.max() >= len(ACTIONS):
            worst = numbers[(numbers < 0) | (numbers >= len(ACTIONS))][0]
            raise ServingError(f"action is {int(worst)}; give a whole number from 0 to 17")
        return numbers.astype(np.int64, copy=False)

    def _begin(self, index: int, scenario: Scenario, seed: int | None) -> None:
        """Puts a new episode in place of server `index`."""
        stream = self._streams[index]
        if seed is not None or stream is None:
            stream, _ = seeding.np_random(seed)
            self._streams[index] = stream
        self._put(index, new_state(scenario, next_seed(stream) if seed is None else seed))

    def _put(self, index: int, state: State) -> None:
        """Puts a copy of a server in place of server `index`."""
        self._make_room(len(state.load.table))
        self._fixed[index, : len(state.fixed)] = state.fixed
        self._live[index, : len(state.live)] = state.live
        # What the stacks hold now is the truth; this one keeps what never changes.
        self._states[index] = state
        look(*self.state(index).buffers, self._observed[index], self._masks[index])
        self._rewards[index] = 0.0

    def _make_room(self, requests: int) -> None:
        """Widens the stacks where an episode has more requests than all before."""
        if requests < self._room:
            return
        # A quarter more, so that episodes of about the same length do not all widen it.
        self._room = requests + requests // 4 + 1
        for name, size in (("_fixed", fixed_size(self._room)), ("_live", live_size(self._room))):
            old, new = getattr(self, name), np.zeros((self.num_envs, size), np.int64)
            new[:, : old.shape[1]] = old
            setattr(self, name, new)

    def _each(self, actions: np.ndarray, skip: np.ndarray) -> None:
        workers = max(1, min(self.threads, self.num_envs // WORTH_A_THREAD))
        bounds = [self.num_envs * k // workers for k in range(workers + 1)]
        views = self._observed, self._masks
        arguments = self._fixed, self._live, *views, self._rewards, actions, skip
        if workers == 1:
            step_some(*arguments, 0, self.num_envs)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads - 1)
        others = [
            self._pool.submit(step_some, *arguments, bounds[k], bounds[k + 1]) for k in range(1, workers)
        ]
        step_some(*arguments, bounds[0], bounds[1])
        for other in others:
            other.result()

    def _shown_now(self) -> np.ndarray:
        return self._observed[:, : self._shown].copy()


@uncounted(nogil=True)
def step_some(fixed, live, observed, masks, rewards, actions, skip, first, last):
    """One decision of servers `first` to `last` - 1 that are not to be skipped."""
    for e in range(first, last):
        if skip[e]:
            rewards[e] = 0.0
        else:
            c = columns_of(fixed[e], live[e])
            rewards[e] = step(c, observed[e], masks[e], actions[e])

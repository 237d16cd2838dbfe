"""Many servers as one Gymnasium vector environment."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from kv_cache_rl.gym.batch import Batch, drawn_by_batches
from kv_cache_rl.gym.requests import RESET_MASK
from kv_cache_rl.gym.single import WORLD, ServingEnv, changes_of, final_info, scenario_of
from kv_cache_rl.gym.stacks import Stacks
from kv_cache_rl.sim.serving.dynamics import new_state
from kv_cache_rl.sim.serving.spec import Scenario, ServingError
from kv_cache_rl.sim.serving.state import State


class ServingVectorEnv(Batch[Stacks]):
    """`num_envs` servers of one task; server k plays as a `ServingEnv` would that was reset with seed + k.

    Autoreset is one of Gymnasium's modes (`batch.Batch`). ``info["action_mask"]`` is int8 ``[num_envs, 18]``;
    where an episode ends, ``score``, ``crashed`` and ``report`` are there too, laid out as Gymnasium does
    (with ``_score`` ...). The option ``{"settings": {...}}`` of `reset` changes settings.
    """

    world = WORLD

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
        one = ServingEnv(task, observation, drawn_by_batches(render_mode), **settings)
        self._begin_batch(one, num_envs, threads, autoreset_mode, max_episode_steps)
        self.scenario, self.task, self.settings = one.scenario, one.task, one.settings
        self.observation = observation
        self._stacks = Stacks(self.num_envs, self.threads)

    def resume(self, states: Sequence[State]) -> tuple[np.ndarray, dict[str, Any]]:
        """Goes on from copies of servers in the middle of their episodes; those that follow have its own
        settings.

        Raises:
            ServingError: they are not as many as there are servers.
        """
        if len(states) != self.num_envs:
            raise ServingError(f"{len(states)} states for {self.num_envs} servers; give one for each")
        for k, state in enumerate(states):
            self._stacks.put(k, state)
            self._over[k], self._steps[k] = False, 0
        return self._now()

    @property
    def episode_seeds(self) -> np.ndarray | None:
        seeds = [state.seed for state in self._stacks.states if state is not None]
        return np.array(seeds, np.uint64) if seeds else None

    @property
    def clocks(self) -> np.ndarray:
        """Microseconds that each server has been in its episode, int64 ``[num_envs]``."""
        return self._stacks.books["clock_us"].copy()

    def _asked(self, options: Any) -> Scenario | None:
        changes = changes_of(options, RESET_MASK)
        return scenario_of(self.task, self.settings | changes) if changes else None

    def _put_new(self, index: int, seed: int, asked: Scenario | None) -> None:
        usual = self._own[index].get("scenario", self.scenario)
        self._stacks.put(index, new_state(asked or usual, seed))

    def _ended(self) -> tuple[np.ndarray, np.ndarray]:
        return self._stacks.ended, self._stacks.crashed.copy()

    def _final(self, index: int) -> dict[str, Any]:
        return final_info(self.state(index))

    def _lend(self, index: int, one: Any) -> None:
        one.state = self.state(index)

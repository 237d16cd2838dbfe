"""Many caches under pressure as one Gymnasium vector environment."""

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from kv_cache_rl.gym.batch import Batch, drawn_by_batches
from kv_cache_rl.gym.eviction.seats import Seats
from kv_cache_rl.gym.eviction.single import WORLD, EvictionEnv, final_info, start, start_asked
from kv_cache_rl.gym.eviction.sources import Start
from kv_cache_rl.gym.requests import RESET_MASK


class EvictionVectorEnv(Batch[Seats]):
    """`num_envs` caches; cache k plays as an `EvictionEnv` would that was reset with seed + k.

    Autoreset is one of Gymnasium's modes (`batch.Batch`). ``info["action_mask"]`` is int8 ``[num_envs, 97]``,
    ``window`` and ``failures`` are int64 ``[num_envs]``; where an episode ends, ``score`` and ``report`` are
    there too, laid out as Gymnasium does (with ``_score`` ...). The option ``{"scenario": ...}`` of `reset`
    plays one scenario everywhere; ``set_attr("scenario", [...])`` gives each cache one of its own.
    """

    world = WORLD

    def __init__(
        self,
        num_envs: int = 1,
        difficulty: str = "medium",
        split: str = "train",
        source: Any = "committed",
        threads: int = 2,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
    ) -> None:
        """Caches of one difficulty; `EvictionEnv` says what the arguments mean.

        Args:
            max_episode_steps: decisions after which an episode is truncated, as Gymnasium's TimeLimit does.

        Raises:
            ScenarioError: an unknown difficulty or split, or a file that cannot be used.
            DecisionError: an unknown source or mode, or a number out of range.
        """
        one = EvictionEnv(difficulty, split, source, drawn_by_batches(render_mode))
        self._begin_batch(one, num_envs, threads, autoreset_mode, max_episode_steps)
        self.difficulty, self.split, self.source = difficulty, split, source
        self._source = one._source
        self._stacks = Seats(self.num_envs, self.threads)

    @property
    def episode_seeds(self) -> np.ndarray | None:
        return self._stacks.episode_seeds.copy() if self._stacks.begun(0) else None

    def _asked(self, options: Any) -> Start | None:
        return start_asked(self._source, options, RESET_MASK)

    def _put_new(self, index: int, seed: int, asked: Start | None) -> None:
        fixed = self._own[index].get("scenario")
        self._stacks.put(index, start(self._source, seed, fixed, asked), seed)

    def _ended(self) -> tuple[np.ndarray, np.ndarray]:
        over = self._stacks.played["window"] >= self._stacks.played["steps"]
        return over, over

    def _also(self) -> dict[str, np.ndarray]:
        return {name: self._stacks.played[name].copy() for name in ("window", "failures")}

    def _final(self, index: int) -> dict[str, Any]:
        playing = self._stacks.playing[index]
        assert playing is not None
        said, settled = final_info(playing, self.state(index), float(self._stacks.earned[index, 0]))
        self._stacks.rewards[index] += settled
        return said

    def _lend(self, index: int, one: Any) -> None:
        one.playing, one.state = self._stacks.playing[index], self.state(index)
        one.episode_seed = int(self._stacks.episode_seeds[index])
        one._seat, one._earned = self._stacks.seat(index), self._stacks.earned[index]

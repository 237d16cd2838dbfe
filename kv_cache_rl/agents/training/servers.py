"""Servers as a network sees them: `sim.serving.network.FEATURES` instead of the view."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from stable_baselines3.common.vec_env import VecEnvWrapper

from kv_cache_rl.gym.sb3 import ServingVecEnv
from kv_cache_rl.jit import uncounted
from kv_cache_rl.search.serving.rollout import finish
from kv_cache_rl.sim.serving.dynamics import new_state
from kv_cache_rl.sim.serving.heuristics import NEURAL
from kv_cache_rl.sim.serving.network import FEATURES, INPUTS, OUTPUTS, write_features
from kv_cache_rl.sim.serving.spec import Scenario
from kv_cache_rl.sim.serving.state import State

CAN = slice(FEATURES.index("can evict_largest_free"), FEATURES.index("can evict_largest_free") + OUTPUTS)
"""Where the features hold the mask."""

WAITING = [FEATURES.index("free_queue_pressure"), FEATURES.index("vip_queue_pressure")]


@uncounted(nogil=True)
def write_all(seen, masks, x):
    """`write_features` of a batch: ``seen [n, 24]``, ``masks [n, 18]``, ``x [n, INPUTS]``."""
    for k in range(len(seen)):
        write_features(seen[k], masks[k], x[k])


def features_of(seen: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The features of views ``[n, 24]`` and masks ``[n, 18]``, float32 ``[n, INPUTS]``."""
    x = np.zeros((len(seen), INPUTS))
    write_all(np.ascontiguousarray(seen, np.float32), np.ascontiguousarray(masks, np.int8), x)
    return x.astype(np.float32)


class Servers(VecEnvWrapper):
    """The compiled batch for a network; server k plays `scenarios[k]` with the seed `first` + k."""

    def __init__(
        self,
        scenarios: Sequence[Scenario],
        first: int,
        scale: float = 1.0,
        waiting: float = 0.0,
        memory: np.ndarray | None = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        """Servers before their first `reset`.

        Args:
            scale: factor on rewards, so that values are near 1.
            waiting: what a request that waits costs in a nominal tick, before the scale.
            memory: of the network that has served until the first `reset`; None: servers begin empty.
            rng: draws how long it has, up to the whole episode.
        """
        batch = ServingVecEnv("KVServing-medium-v0", len(scenarios), observation="rich")
        batch.batch.set_attr("scenario", list(scenarios))
        super().__init__(batch, Box(-1.0, 1.0, (INPUTS,), np.float32))
        self.scenarios, self.first, self.scale, self.waiting = scenarios, first, scale, waiting
        self.queues = np.array([[one.queue_free, one.queue_vip] for one in scenarios])
        self.tick_us, self.clocks = np.ones(len(scenarios)), np.zeros(len(scenarios), np.int64)
        self.memory, self.rng = memory, rng
        self.servers: Any = batch.batch
        self.scores: list[float] = []
        """Of the episodes that ended."""

    def reset(self) -> np.ndarray:
        self.venv.seed(self.first)
        seen: Any = self.venv.reset()
        if self.memory is not None and self.rng is not None:
            states = [self._begun(k, float(self.rng.random())) for k in range(self.num_envs)]
            seen, _ = self.servers.resume(states)
        self.tick_us = np.array([self.servers.state(k).load.tick_us for k in range(self.num_envs)])
        self.clocks = self.servers.clocks
        return features_of(seen, self.servers.action_masks())

    def _begun(self, k: int, share: float) -> State:
        """Server `k` after a share of its episode."""
        state = new_state(self.scenarios[k], self.first + k)
        begun = state.copy()
        assert self.memory is not None
        finish(begun, NEURAL, self.memory.copy(), int(share * begun.columns.book["end_us"]))
        return state if begun.done else begun

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        shown, rewards, over, infos = self.venv.step_wait()
        seen = np.asarray(shown)
        for k in np.flatnonzero(over):
            # Nothing can be done in a server that is over.
            last = infos[k]["terminal_observation"][None]
            infos[k]["terminal_observation"] = features_of(last, np.zeros((1, OUTPUTS)))[0]
            self.scores.append(float(infos[k]["score"]))
        clocks = self.servers.clocks
        ticks = np.where(over, 0, clocks - self.clocks) / self.tick_us
        self.clocks = clocks
        rewards = rewards - self.waiting * ticks * (self.queues * seen[:, WAITING]).sum(1)
        return features_of(seen, self.servers.action_masks()), rewards * self.scale, over, infos

    def said(self) -> dict[str, float]:
        """Mean score of the episodes that ended, whatever their task; nothing where none did."""
        return {"score": float(np.mean(self.scores))} if self.scores else {}

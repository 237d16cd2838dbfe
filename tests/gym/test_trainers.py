"""Stable-Baselines3 and sb3-contrib train on it as it is."""

import gymnasium
import numpy as np
import pytest

import kv_cache_rl.gym  # noqa: F401

TINY = {"n_steps": 64, "batch_size": 32, "n_epochs": 1, "seed": 0, "device": "cpu"}


@pytest.mark.parametrize("observation", ["plain", "rich"])
def test_a_short_ppo_run_trains(observation):
    from stable_baselines3 import PPO

    model = PPO("MlpPolicy", gymnasium.make("KVServing-medium-v0", observation=observation, ticks=60), **TINY)
    before = [parameter.detach().clone() for parameter in model.policy.parameters()]
    model.learn(128)
    assert any((a != b).any() for a, b in zip(before, model.policy.parameters(), strict=True))


def test_a_short_masked_ppo_run_trains_and_never_takes_a_refused_action():
    from sb3_contrib import MaskablePPO
    from stable_baselines3.common.vec_env import DummyVecEnv

    taken = []

    class Watched(gymnasium.Wrapper):
        def step(self, action):
            taken.append(bool(self.unwrapped.action_masks()[action]))
            return super().step(action)

        def action_masks(self) -> np.ndarray:
            return self.unwrapped.action_masks()

    envs = DummyVecEnv([lambda: Watched(gymnasium.make("KVServing-hard-v0", ticks=60))] * 2)
    MaskablePPO("MlpPolicy", envs, **TINY).learn(256)
    assert len(taken) >= 256
    assert all(taken)

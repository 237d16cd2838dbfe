"""Train agents with Stable-Baselines3 on the compiled batch, and play one on seeds that it has not seen.

    python examples/train_with_sb3.py --steps 200000 --out runs/sb3
    kv-cache-rl serving evaluate --agent lru --agent examples/train_with_sb3.py:Learned --task medium

The first line needs the extra: pip install 'kv-cache-rl[serving]'. The second plays runs/sb3/masked.zip, or
the file that SB3_MODEL names.
"""

import argparse
import os
from pathlib import Path

import numpy as np
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO

from kv_cache_rl.gym.sb3 import ServingVecEnv
from kv_cache_rl.sim.serving.seeds import SEEDS


class Learned:
    """The trained policy as an agent of the serving world."""

    name = "learned"
    weights = Path(os.environ.get("SB3_MODEL", "runs/sb3/masked.zip"))

    def __init__(self):
        self.model = MaskablePPO.load(self.weights, device="cpu")
        self.shown = self.model.observation_space.shape[0]

    def reset(self, seed=0):
        """Nothing is drawn: it takes the likeliest action."""

    def act(self, seen, mask):
        action, _ = self.model.predict(seen[: self.shown], action_masks=mask.astype(bool), deterministic=True)
        return int(action)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="medium")
    parser.add_argument("--steps", type=int, default=200_000, help="decisions of all servers together")
    parser.add_argument("--servers", type=int, default=16)
    parser.add_argument("--ticks", type=int, default=200, help="length of a training episode")
    parser.add_argument("--out", type=Path, default=Path("runs/sb3"))
    asked = parser.parse_args()
    for name, algorithm in (("plain", PPO), ("masked", MaskablePPO)):
        env = ServingVecEnv(
            f"KVServing-{asked.task}-v0", asked.servers, observation="rich", ticks=asked.ticks
        )
        # Traffic comes from the training seeds alone; test seeds are left for `serving evaluate`.
        env.seed(SEEDS["train"][0])
        model = algorithm(
            "MlpPolicy", env, n_steps=128, batch_size=512, gamma=0.998, ent_coef=0.005, seed=0, device="cpu"
        )
        model.learn(asked.steps)
        model.save(asked.out / f"{name}.zip")
        returns = [episode["r"] for episode in model.ep_info_buffer]
        mean = f"{np.mean(returns):+.2f}" if returns else "unknown, none has ended"
        print(f"{name}: mean return of the last {len(returns)} episodes {mean}; {asked.out / name}.zip")


if __name__ == "__main__":
    main()

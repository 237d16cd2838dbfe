"""Train an agent of the eviction environment with MaskablePPO, and play it on scenarios it has not seen.

    python examples/train_eviction_with_sb3.py --steps 500000 --difficulty hard --out runs/eviction-sb3

It needs the extra: pip install 'kv-cache-rl[serving]'. The score is 0 at the floor and 1 at the best known.
"""

import argparse
from pathlib import Path

import gymnasium
import numpy as np
from sb3_contrib import MaskablePPO

from kv_cache_rl.gym.sb3 import EvictionVecEnv


def play(model, difficulty, games):
    """Scores of the likeliest actions on scenarios of the eval set."""
    env, scores = gymnasium.make(f"KVEviction-{difficulty}-v0", split="eval"), []
    for seed in range(games):
        (seen, info), over = env.reset(seed=seed), False
        while not over:
            action, _ = model.predict(seen, action_masks=info["action_mask"].astype(bool), deterministic=True)
            seen, _, over, _, info = env.step(action)
        scores.append(info["score"])
    return scores


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--difficulty", default="medium")
    parser.add_argument("--steps", type=int, default=500_000, help="decisions of all caches together")
    parser.add_argument("--caches", type=int, default=64)
    parser.add_argument("--games", type=int, default=50, help="scenarios of the eval set to play afterwards")
    parser.add_argument("--out", type=Path, default=Path("runs/eviction-sb3"))
    asked = parser.parse_args()
    env = EvictionVecEnv(f"KVEviction-{asked.difficulty}-v0", asked.caches, split="train")
    env.seed(0)
    # Rewards come when a window is played, after a few decisions: hence a gamma near 1.
    model = MaskablePPO(
        "MlpPolicy", env, n_steps=128, batch_size=256, gamma=0.998, ent_coef=0.01, seed=0, device="cpu"
    )
    model.learn(asked.steps)
    model.save(asked.out / "masked.zip")
    returns = [episode["r"] for episode in model.ep_info_buffer]
    mean = f"{np.mean(returns):+.3f}" if returns else "unknown, none has ended"
    print(f"mean return of the last {len(returns)} episodes: {mean}; {asked.out / 'masked.zip'}")
    scores = play(model, asked.difficulty, asked.games)
    print(f"score on {len(scores)} scenarios of the eval set: {np.mean(scores):+.3f}")


if __name__ == "__main__":
    main()

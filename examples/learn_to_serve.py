"""Train a masked policy that serves better than lru, in minutes: imitation with the student at the wheel,
then PPO if you like.

    python examples/learn_to_serve.py --out runs/learned
    kv-cache-rl serving evaluate --agent lru --agent examples/learn_to_serve.py:Learned --task medium

The first line needs the extra: pip install 'kv-cache-rl[serving]'. The second plays runs/learned/masked.zip,
or the file that SB3_MODEL names.

From nothing, PPO is still behind lru after some millions of decisions: what an admission is worth shows
thousands of decisions later. A heuristic's decisions, copied where the student itself goes, are a start that
is ahead at once (DAgger: Ross, Gordon, Bagnell, AISTATS 2011).
"""

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from sb3_contrib import MaskablePPO

from kv_cache_rl.gym.sb3 import ServingVecEnv
from kv_cache_rl.sim.serving.heuristics import HEURISTICS, choose, new_memory
from kv_cache_rl.sim.serving.seeds import SEEDS

SETTINGS = {"learning_rate": 3e-4, "gamma": 0.9995, "ent_coef": 0.0, "target_kl": 0.01}


class Learned:
    """The trained policy as an agent of the serving world."""

    name = "learned"
    weights = Path(os.environ.get("SB3_MODEL", "runs/learned/masked.zip"))

    def __init__(self):
        self.model = MaskablePPO.load(self.weights, device="cpu")

    def reset(self, seed=0):
        """Nothing is drawn: it takes the likeliest action."""

    def act(self, seen, mask):
        action, _ = self.model.predict(seen, action_masks=mask.astype(bool), deterministic=True)
        return int(action)


def watched(env, teacher, student, share, decisions, rng):
    """Views, masks and the teacher's choice of about so many decisions; it takes a `share` of them itself."""
    which, memory = HEURISTICS[teacher].which, new_memory(teacher)
    seen, rows = env.reset(), []
    for _ in range(-(-decisions // env.num_envs)):
        masks = env.batch.action_masks()
        told = [choose(which, *one, memory) for one in zip(seen, masks.astype(np.int8), strict=True)]
        rows.append((seen, masks, np.array(told)))
        own, _ = student.predict(seen, action_masks=masks, deterministic=True)
        seen, *_ = env.step(np.where(rng.random(len(told)) < share, told, own))
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


def fit(student, views, masks, told, rng, epochs=4, batch=1024):
    """Moves the student towards what it was told; the last loss."""
    optimizer = torch.optim.Adam(student.policy.parameters(), lr=2e-3)
    for _ in range(epochs):
        for rows in np.array_split(rng.permutation(len(told)), -(-len(told) // batch)):
            seen, wanted = torch.as_tensor(views[rows]), torch.as_tensor(told[rows])
            _, likelihood, _ = student.policy.evaluate_actions(seen, wanted, action_masks=masks[rows])
            loss = -likelihood.mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return loss.item()


def imitate(student, env, teacher="watermark_90", rounds=4, decisions=60_000, seed=0):
    """Rounds of play, each with more of the student's own decisions, and a fit to all seen so far."""
    rng, seen = np.random.default_rng(seed), []
    for number in range(rounds):
        seen.append(watched(env, teacher, student, 0.5**number, decisions, rng))
        loss = fit(student, *(np.concatenate(column) for column in zip(*seen, strict=True)), rng)
        print(f"round {number + 1} of {rounds}: loss {loss:.4f}", flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="medium")
    parser.add_argument("--teacher", default="watermark_90", choices=HEURISTICS)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--decisions", type=int, default=60_000, help="a round, of all servers together")
    parser.add_argument("--ppo", type=int, default=0, help="decisions of PPO after that")
    parser.add_argument("--servers", type=int, default=32)
    parser.add_argument("--ticks", type=int, default=2_000, help="length of a training episode")
    parser.add_argument("--out", type=Path, default=Path("runs/learned"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    env = ServingVecEnv(f"KVServing-{asked.task}-v0", asked.servers, observation="rich", ticks=asked.ticks)
    # Traffic comes from the training seeds alone; test seeds are left for `serving evaluate`.
    env.seed(SEEDS["train"][0])
    student = MaskablePPO("MlpPolicy", env, n_steps=256, batch_size=2048, seed=0, device="cpu", **SETTINGS)
    imitate(student, env, asked.teacher, asked.rounds, asked.decisions)
    if asked.ppo:
        student.learn(asked.ppo)
    student.save(asked.out / "masked.zip")
    print(asked.out / "masked.zip")


if __name__ == "__main__":
    main()

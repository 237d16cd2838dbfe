"""Plays the golden games;

`python -m tests.golden` writes their results into eviction/games.json, and nothing else does.
"""

import hashlib
import json
from pathlib import Path

from kv_cache_rl.files import finite
from kv_cache_rl.sim.eviction import DECIDERS, DIFFICULTIES, rollout
from kv_cache_rl.sim.eviction.generate import generate
from kv_cache_rl.sim.eviction.spec import dumps

FILE = Path(__file__).parent / "eviction" / "games.json"


def game(difficulty: str, policy: str, seed: int = 11, split: str = "train", index: int = 0) -> dict:
    """Scenario arguments, policy and what came of them."""
    scenario = generate(difficulty, seed, split, index)
    report = rollout(scenario, DECIDERS[policy]())
    return {
        "scenario": {"difficulty": difficulty, "seed": seed, "split": split, "index": index},
        "scenario_sha256": hashlib.sha256(dumps(scenario).encode()).hexdigest(),
        "policy": policy,
        "total": report.total,
        "rewards": report.rewards,
        "metrics": finite(report.metrics),
    }


if __name__ == "__main__":
    games = [game(difficulty, policy) for difficulty in DIFFICULTIES for policy in DECIDERS]
    FILE.write_text("[\n" + ",\n".join(json.dumps(g) for g in games) + "\n]\n")
    print(f"{FILE}: {len(games)} games")

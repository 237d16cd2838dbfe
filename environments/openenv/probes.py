"""Writes what the manifests name: the canaries' actions, and the probe of OpenEnv's own runtime validation.

python environments/openenv/probes.py
"""

import json
from pathlib import Path
from typing import Any

from kv_cache_rl.adapters.openenv.plays import BEST_RULE, WORLDS, World, played_here

ENVIRONMENTS = Path(__file__).resolve().parents[1]


def canaries(name: str, world: World) -> str:
    """A line for each canary and task: its actions, and the score that it may not pass."""
    rows: list[dict[str, Any]] = []
    for task in world.graded:
        floor = played_here(name, BEST_RULE, task).score
        for by in world.canaries:
            play = played_here(name, by, task)
            rows.append({"by": by, "reset": play.reset, "actions": play.actions, "at_most": floor})
    return "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)


def probe(world: World) -> str:
    """A session that OpenEnv's own runtime validation plays."""
    reset = {"episode_id": "probe", "seed": 0, "options": {}}
    plan = {"plan_schema_version": "1", "reset": reset, "actions": [world.nothing] * 15}
    return json.dumps(plan, indent=2) + "\n"


def files() -> dict[Path, str]:
    """Every file with what it holds."""
    found = {}
    for name, world in WORLDS.items():
        folder = ENVIRONMENTS / name / "validation"
        found[folder / "canaries.jsonl"] = canaries(name, world)
        found[folder / "runtime.json"] = probe(world)
    return found


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)

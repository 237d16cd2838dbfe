"""Plays two short episodes; `python tests/sim/serving/golden.py` writes what came of them into
tests/golden/serving/episodes.json, and nothing else does.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from driving import Face, player, rng_of, serve_all

from kv_cache_rl.sim.serving.dynamics import new_state
from kv_cache_rl.sim.serving.score import report
from kv_cache_rl.sim.serving.spec import Scenario, task

FILE = Path(__file__).parents[2] / "golden" / "serving" / "episodes.json"
PLAYERS = {"serve_all": lambda seed: serve_all, "random": lambda seed: player(rng_of(seed), wild=False)}
GAMES = (
    ("serve_all", 11, task("medium", ticks=800, gpu_blocks=900, cpu_blocks=400, rho=1.2, rho_peak=2.0)),
    ("random", 14, task("hard", ticks=800, gpu_blocks=1_500, cpu_blocks=2_000, power_share=0.1)),
)


def episode(who: str, seed: int, scenario: Scenario) -> dict:
    """Settings, player, outcome; clock, blocks in use and queue lengths after every 50th tick."""
    state = new_state(scenario, seed)
    face, choose, course = Face(state), PLAYERS[who](seed), []
    while not state.done:
        ticks = face.ticks
        face.act(choose(face.mask))
        if face.ticks > ticks and face.ticks % 50 == 0:
            waiting = [
                round(float(face.seen[3 + vip]) * cap)
                for vip, cap in enumerate((scenario.queue_free, scenario.queue_vip))
            ]
            course.append([face.clock, face.used(0), face.used(1), *waiting])
    return {
        "player": who,
        "seed": seed,
        "scenario": asdict(scenario),
        "traffic_sha256": hashlib.sha256(state.load.table.tobytes()).hexdigest(),
        "rows_sha256": hashlib.sha256(state.columns.rows.tobytes()).hexdigest(),
        "course": course,
        "report": asdict(report(state)),
    }


if __name__ == "__main__":
    FILE.write_text("[\n" + ",\n".join(json.dumps(episode(*game)) for game in GAMES) + "\n]\n")
    print(f"{FILE}: {len(GAMES)} episodes")

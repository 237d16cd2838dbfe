"""Every tier and decider plays as it did when the golden file was written (rewrite:

`python -m tests.golden`).
"""

import json
import runpy
from pathlib import Path

import pytest

from kv_cache_rl.sim.eviction import DECIDERS, DIFFICULTIES

HERE = Path(__file__).parent
GAMES = json.loads((HERE / "eviction" / "games.json").read_text())
game = runpy.run_path(str(HERE / "__main__.py"))["game"]


@pytest.mark.parametrize("golden", GAMES, ids=[f"{g['scenario']['difficulty']}-{g['policy']}" for g in GAMES])
def test_a_game_ends_as_it_did(golden):
    assert game(policy=golden["policy"], **golden["scenario"]) == golden


def test_every_tier_and_decider_has_a_golden_game():
    assert [(g["scenario"]["difficulty"], g["policy"]) for g in GAMES] == [
        (t, name) for t in DIFFICULTIES for name in DECIDERS
    ]

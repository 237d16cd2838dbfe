"""Two short episodes end as they did when the golden file was written (rewrite:

`python tests/sim/serving/golden.py`).
"""

import json

import pytest
from golden import FILE, PLAYERS, episode

from kv_cache_rl.sim.serving.spec import Scenario

EPISODES = json.loads(FILE.read_text()) if FILE.is_file() else []


@pytest.mark.parametrize("golden", EPISODES, ids=[golden["player"] for golden in EPISODES])
def test_an_episode_ends_as_it_did(golden):
    now = episode(golden["player"], golden["seed"], Scenario(**golden["scenario"]))
    # As text, in which a number that is none equals itself.
    assert json.dumps(now).splitlines() == json.dumps(golden).splitlines()


def test_every_player_has_a_golden_episode_in_which_much_happened():
    assert [golden["player"] for golden in EPISODES] == list(PLAYERS)
    for golden in EPISODES:
        assert golden["report"]["completed"] > 20 and len(golden["course"]) > 10
        assert 0 < golden["report"]["cache_residency"] < 1
    assert EPISODES[0]["report"]["forced_preemptions"] > 0 and EPISODES[1]["report"]["bytes_swapped"] > 0

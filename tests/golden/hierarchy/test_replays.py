"""Every policy replays as it did when the golden file was written.

Rewrite it with `python -m tests.golden.hierarchy`.
"""

import json
import runpy
from pathlib import Path

import pytest

from kv_cache_rl.sim.hierarchy import POLICIES

HERE = Path(__file__).parent
MAKER = runpy.run_path(str(HERE / "__main__.py"))
REPLAYS = json.loads((HERE / "replays.json").read_text())
ARGUMENTS = ("trace", "tiers", "rules", "policy", "seed")


@pytest.mark.parametrize("golden", REPLAYS, ids=["-".join(map(str, list(g.values())[:4])) for g in REPLAYS])
def test_a_replay_ends_as_it_did(golden):
    assert MAKER["replay"](*(golden[name] for name in ARGUMENTS)) == golden


def test_the_golden_replays_are_all_cases_under_all_policies():
    written = [tuple(golden[name] for name in ARGUMENTS[:4]) for golden in REPLAYS]
    assert written == [(*case, policy) for case in MAKER["CASES"] for policy in POLICIES]

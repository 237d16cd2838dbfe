"""The lab's host tier moves the keys that vLLM's own moved, which were recorded (tests/golden/engine)."""

import json
from pathlib import Path

import numpy as np
import pytest

from kv_cache_rl.experiments.engine.arc_rules import PlainArc
from kv_cache_rl.experiments.engine.offload import LabHost, Moved, likeness, offloaded

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "engine" / "offload.json").read_text())
CASES = {f"{one['policy']} {one['host_blocks']}": one for one in GOLDEN["cases"]}


def moved(case):
    return [Moved(one[0], one[1], tuple(one[2]), tuple(one[3])) for one in case["moved"]]


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("arc")])
def test_the_lab_s_host_tier_moves_the_same_keys_as_vllm_s(name):
    case = CASES[name]
    lab = offloaded(GOLDEN["requests"], case["gpu_blocks"], LabHost(case["policy"], case["host_blocks"]))
    found = likeness(lab, moved(case))
    assert (found.equal, found.first) == (len(GOLDEN["requests"]), "")
    assert found.lab_host > 0 and sum(len(one.evicted) for one in lab) > 0


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("arc")])
def test_vllm_s_arc_is_arc_with_three_rules_of_its_own(name):
    case = CASES[name]
    arguments = GOLDEN["requests"], case["gpu_blocks"]
    vllm, lab = moved(case), offloaded(*arguments, LabHost("arc", case["host_blocks"]))
    assert offloaded(*arguments, PlainArc(case["host_blocks"])) == vllm
    assert likeness(lab, vllm).first.startswith("request ")


def test_by_the_paper_s_rules_it_is_the_lab_s_arc():
    asked = [[int(one)] for one in np.random.default_rng(4).zipf(1.2, 900) % 150]
    for blocks in (12, 40):
        lab = offloaded(asked, 1, LabHost("arc", blocks))
        assert offloaded(asked, 1, PlainArc(blocks, False, False, False)) == lab
        assert offloaded(asked, 1, PlainArc(blocks)) != lab


def test_every_rule_of_vllm_s_arc_is_needed():
    for flags in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
        runs = [
            offloaded(GOLDEN["requests"], case["gpu_blocks"], PlainArc(case["host_blocks"], *flags))
            == moved(case)
            for name, case in CASES.items()
            if name.startswith("arc")
        ]
        assert not all(runs), flags


def test_a_request_that_needs_more_than_the_tier_has_is_not_stored():
    for host in (LabHost("lru", 4), PlainArc(4)):
        found = offloaded([[1, 2], [1, 2, 3, 4, 5, 6]], 1, host)
        assert found[1].stored == (3, 4, 5, 6) or found[1].stored == ()
        assert len(offloaded([list(range(9))], 20, host)[0].stored) == 0


def test_what_is_found_is_behind_what_the_gpu_holds():
    host = LabHost("lru", 10)
    found = offloaded([[1, 2, 3], [4, 5], [1, 2, 3]], 2, host)
    assert [(one.gpu, one.host) for one in found] == [(0, 0), (0, 0), (0, 3)]
    assert found[2].stored == () and set(host.tier.names()) == {1, 2, 3, 4, 5}


def test_the_first_difference_is_told():
    left = [Moved(0, 1, (1, 2), ()), Moved(0, 0, (3,), (1,))]
    for right, words in (
        (Moved(0, 2, (3,), (1,)), "0 blocks found below in the lab, 2 in the engine"),
        (Moved(0, 0, (4,), (1,)), "block 3 is stored in the lab, 4 in the engine"),
        (Moved(0, 0, (3,), ()), "1 blocks are evicted in the lab, 0 in the engine"),
    ):
        found = likeness(left, [left[0], right])
        assert (found.equal, found.first) == (1, f"request 1: {words}")

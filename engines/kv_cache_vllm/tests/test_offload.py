"""The lab's policies inside vLLM's offload tier, and beside vLLM's own."""

import json
from pathlib import Path

import golden_offload
import pytest
from kv_cache_vllm import offload
from kv_cache_vllm.host import EngineHost, _key
from vllm.v1.kv_offload.base import ReqContext
from vllm.v1.kv_offload.cpu.manager import CPUOffloadingManager

from kv_cache_rl.core.errors import Refused
from kv_cache_rl.experiments.engine.offload import LabHost, offloaded
from kv_cache_rl.sim.hierarchy.policies import POLICIES

GOLDEN = Path(__file__).parents[3] / "tests" / "golden" / "engine" / "offload.json"


def test_the_committed_recording_is_what_vllm_does(tmp_path):
    golden_offload.main(tmp_path / "again.json")
    again, committed = (json.loads(path.read_text()) for path in (tmp_path / "again.json", GOLDEN))
    assert again["cases"] == committed["cases"] and again["requests"] == committed["requests"]


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_of_the_lab_decides_in_vllm_s_manager_as_in_the_lab(policy):
    asked = golden_offload.requests(60)
    lab = offloaded(asked, 12, LabHost(policy, 24))
    assert offloaded(asked, 12, EngineHost(f"lab_{policy}", 24)) == lab
    assert sum(len(one.evicted) for one in lab) > 20


def test_what_is_written_or_read_is_spared_and_nothing_changes_where_too_few_can_leave():
    manager = CPUOffloadingManager(4, "s3fifo", "kv_cache_vllm.offload")
    one, two = ReqContext("1"), ReqContext("2")
    manager.prepare_store([_key(block) for block in (1, 2, 3)], one)
    assert manager.prepare_store([_key(block) for block in (4, 5)], two) is None, "all are being written"
    manager.complete_store([_key(1), _key(2)], one)
    manager.complete_store([_key(3)], one, success=False)
    manager.prepare_load([_key(1)], one)
    answer = manager.prepare_store([_key(block) for block in (6, 7, 8)], two)
    assert answer.evicted_keys == [_key(2)]
    manager.complete_store([_key(block) for block in (6, 7, 8)], two)
    manager.complete_load([_key(1)], one)
    manager.reset_cache()
    assert manager.prepare_store([_key(9)], ReqContext("3")).evicted_keys == []


def test_a_policy_that_the_lab_does_not_have_is_named():
    with pytest.raises(offload.UnknownPolicy, match=r"unknown policy 's3fif'; did you mean s3fifo\?"):
        CPUOffloadingManager(4, "s3fif", "kv_cache_vllm.offload")
    with pytest.raises(Refused, match="unknown policy 'best'"):
        EngineHost("best", 4)
    assert not hasattr(offload, "__path__")

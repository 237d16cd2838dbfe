"""``engine policies``: a stand-in for vLLM whose policies are those that the lab predicts."""

import contextlib
import json
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from block_pool import recorded

from kv_cache_rl.cli.engine import policies
from kv_cache_rl.experiments.engine.predicted import predicted

WORDS = ("engine", "policies", "workload:shared_prefixes,requests=12,sessions=3", "--blocks", "60%")


@dataclass(frozen=True)
class Pace:
    at: str
    rate: float


@pytest.fixture
def stand_in(monkeypatch):
    """Takes the place of kv_cache_vllm; `wrong` is a policy under which its last request finds nothing."""
    asked = SimpleNamespace(policy=None, policies=[], wrong=None)

    @contextlib.contextmanager
    def policy(name):
        asked.policy = name
        yield
        asked.policy = None

    def recording(plan, config, folder, pace, told, scheduler_cls):
        assert asked.policy == config.policy
        assert not folder.exists()
        asked.policies.append(config.policy)
        found = predicted(plan.requests, config.blocks, config.block_tokens, config.policy)
        if config.policy == asked.wrong:
            found[-1] = 0
        told(len(found), len(found))
        return recorded(plan, found)

    module = SimpleNamespace(
        version=lambda: "vllm 0.32.0",
        Pace=Pace,
        record=recording,
        policy=policy,
        CHOSEN={"scheduler_cls": "a.Class"},
    )
    monkeypatch.setattr(policies, "engine_module", lambda name, command: module)
    return asked


def test_both_rates_stand_side_by_side_and_the_file_has_the_rows(kv, stand_in, tmp_path):
    said = kv(*WORDS, "--policy", "lru,windowed_recency:window=8", "--out", "found.json", "--check")
    assert said.code == 0
    assert stand_in.policies == ["lru", "windowed_recency:window=8"]
    assert said.out.count("12 of 12") == 2
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["verdict"] in said.out
    assert found == kv(*WORDS, "--policy", "lru,windowed_recency:window=8", "--json").json | {
        "command": found["command"]
    }


def test_seven_policies_are_the_default(kv, stand_in):
    kv(*WORDS)
    assert stand_in.policies == ["lru", "fifo", "lfu", "s3fifo", "sieve", "gdsf", "ttl"]


def test_a_request_that_differs_is_named_and_check_fails(kv, stand_in):
    stand_in.wrong = "lru"
    said = kv(*WORDS, "--policy", "lru,fifo", "--check")
    assert said.code == 1
    assert "lru: request 11 is the first that differs, vLLM found 0 blocks" in said.out
    assert kv(*WORDS, "--policy", "lru").code == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--policy", "lru,s4fifo"], "unknown policy 's4fifo'; did you mean s3fifo"),
        (["--policy", "lru:window=3"], "policy lru has no parameter 'window'"),
        (["--policy", "random:seed=x"], "seed='x' is not possible"),
        (["--blocks", "2"], "cannot hold request"),
        (["--requests", "0"], "--requests"),
    ],
)
def test_bad_input_is_refused_before_an_engine_starts(kv, stand_in, options, said):
    found = kv(*(WORDS[:3] if "--blocks" in options else WORDS), *options)
    assert found.code == 2
    assert said in found.err
    assert not stand_in.policies


def test_without_vllm_the_command_says_what_to_do(kv):
    found = kv(*WORDS)
    assert found.code == 2
    assert "make engine" in found.err

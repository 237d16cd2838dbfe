"""What the lab predicts of its policies inside a real vLLM is what was recorded there."""

import json
from pathlib import Path

import pytest
from block_pool import one_at_a_time, recorded

from kv_cache_rl.experiments.engine.folder import read_run
from kv_cache_rl.experiments.engine.plan import plan_of
from kv_cache_rl.experiments.engine.policies import Beside
from kv_cache_rl.experiments.engine.predicted import predicted, replayed
from kv_cache_rl.experiments.engine.workloads import shared_prefixes
from kv_cache_rl.reports.engine_policies import same_order, verdict
from kv_cache_rl.sim.hierarchy import HierarchyError

GOLDEN = Path(__file__).parents[2] / "golden/engine"
FOUND = json.loads((GOLDEN / "policies.json").read_text(encoding="utf-8"))
ROWS = {row["policy"]: row for row in FOUND["rows"]}


@pytest.fixture(scope="module")
def plan():
    return plan_of(shared_prefixes(**FOUND["source"]["options"]), 32)


@pytest.mark.parametrize("policy", ROWS)
def test_every_request_finds_in_vllm_what_the_lab_predicts(plan, policy):
    assert predicted(plan.requests, FOUND["blocks"], 32, policy) == ROWS[policy]["found"]


def test_lru_finds_what_vllm_finds_under_its_own_queue():
    own = read_run(GOLDEN / "one_at_a_time")
    assert own.config.blocks == FOUND["blocks"]
    assert ROWS["lru"]["found"] == [one.found for one in own.requests]


@pytest.mark.parametrize("blocks", [61, 75, 120])
def test_lru_is_predicted_as_the_plain_pool_has_it(plan, blocks):
    found, _ = one_at_a_time(plan.requests, blocks, 32)
    assert predicted(plan.requests, blocks, 32, "lru") == found


def test_a_replay_is_the_same_under_lru_alone(plan):
    own = read_run(GOLDEN / "one_at_a_time")
    assert replayed(own.requests, own.config, "lru") == ROWS["lru"]["found"]
    differ = {name for name in ROWS if replayed(own.requests, own.config, name) != ROWS[name]["found"]}
    assert differ, "what runs is held in an engine"
    assert "lru" not in differ


def test_policies_differ_and_the_verdict_names_the_best():
    rates = {name: row["engine_rate"] for name, row in ROWS.items()}
    assert len(set(rates.values())) > 3
    assert FOUND["verdict"] == verdict(FOUND["rows"])
    best = max(rates, key=lambda name: rates[name])
    assert FOUND["verdict"].startswith(best if rates[best] > rates["lru"] else "no policy beats lru")


def rows(**rates):
    return [{"policy": name, "engine_rate": one, "replay_rate": two} for name, (one, two) in rates.items()]


def test_the_order_of_policies_is_the_same_or_not():
    assert same_order(rows(lru=(0.5, 0.4), fifo=(0.4, 0.3)), "replay_rate")
    assert not same_order(rows(lru=(0.5, 0.3), fifo=(0.4, 0.3)), "replay_rate")
    assert verdict(rows(lru=(0.5, 0.4), fifo=(0.4, 0.3))) == "no policy beats lru, which finds 50.00 %"
    assert verdict(rows(lru=(0.5, 0.4), sieve=(0.6, 0.3))).startswith("sieve beats lru by 10.00 points")
    assert verdict(rows(fifo=(0.5, 0.4))) == "fifo finds most, 50.00 %"


def test_a_request_that_differs_is_named(plan):
    row = Beside("lru", 10, [1, 2, 3], [1, 2, 4], [1, 1, 1]).to_json()
    assert (row["equal"], row["requests"]) == (2, 3)
    assert row["first"] == {"request": 2, "engine": 3, "lab": 4}
    assert (row["engine_rate"], row["lab_rate"], row["replay_rate"]) == (0.6, 0.7, 0.3)


def test_an_unknown_policy_is_refused(plan):
    config = read_run(GOLDEN / "one_at_a_time").config
    with pytest.raises(HierarchyError, match="unknown policy 'mru'"):
        predicted(plan.requests, 61, 32, "mru")
    with pytest.raises(HierarchyError, match="unknown policy 'mru'"):
        replayed(recorded(plan, [0] * len(plan.requests)), config, "mru")

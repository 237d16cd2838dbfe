"""A recording in the lab: equal to vLLM's block pool, and to real recordings, block by block."""

import json
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
from block_pool import one_at_a_time, recorded
from test_folder import CONFIG

from kv_cache_rl.experiments.engine.comparison import CAUSES, COPIES, ROOM, UNKNOWN, WHOLE, compare
from kv_cache_rl.experiments.engine.folder import Recording, read_run
from kv_cache_rl.experiments.engine.plan import EngineError, plan_of
from kv_cache_rl.experiments.engine.replayed import as_scheduled, in_order
from kv_cache_rl.experiments.engine.workloads import shared_prefixes
from kv_cache_rl.sim.hierarchy.generate import workload

GOLDEN = Path(__file__).parents[2] / "golden/engine"
"""Recordings of a real vLLM, which engines/kv_cache_vllm/tests makes anew and compares."""


def recording_of(plan, blocks):
    found, held = one_at_a_time(plan.requests, blocks, plan.block_tokens)
    config = replace(CONFIG, blocks=blocks, block_tokens=plan.block_tokens, requests=len(found))
    return Recording(Path("made"), config, tuple(recorded(plan, found))), held


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_one_at_a_time_the_lab_equals_the_block_pool_of_vllm(seed, share):
    plan = plan_of(shared_prefixes(150, 8, seed), 32)
    recording, held = recording_of(plan, round(share * plan.working_set) + 2)
    found = in_order(recording)
    assert [one.engine for one in found.lookups] == [one.lab for one in found.lookups]
    assert sum(one.lab for one in found.lookups) > 100
    assert found.held == held


def test_pages_are_found_as_in_the_block_pool():
    plan = plan_of(workload("rag_burst"), 32)
    recording, held = recording_of(plan, 22)
    found = in_order(recording)
    assert [one.engine for one in found.lookups] == [one.lab for one in found.lookups]
    assert found.held == held


def test_a_block_more_or_less_would_be_seen():
    plan = plan_of(shared_prefixes(150, 8), 32)
    recording, _ = recording_of(plan, 100)
    for other in (99, 101):
        wrong = replace(recording, config=replace(recording.config, blocks=other))
        assert any(one.engine != one.lab for one in in_order(wrong).lookups)


def test_a_prompt_of_whole_blocks_is_told_apart():
    plan = plan_of(shared_prefixes(20, 2), 32)
    whole = replace(plan.requests[0], prompt=64, generated=1, blocks=(900, 901))
    again = replace(plan, requests=(whole, replace(whole, number=1)))
    recording, _ = recording_of(again, 9)
    found = compare(recording, "in order")
    assert (found.equal, found.starts, found.causes) == (1, 2, {WHOLE: 1})
    assert (found.first.engine, found.first.lab, found.first.depth) == (1, 2, 1)


@pytest.mark.parametrize(
    ("name", "order", "starts"),
    [
        ("one_at_a_time", "in order", 40),
        ("one_at_a_time", "as scheduled", 40),
        ("beside_each_other", "as scheduled", 42),
    ],
)
def test_a_recorded_vllm_finds_what_the_lab_finds(name, order, starts):
    found = compare(read_run(GOLDEN / name), order)
    assert (found.equal, found.starts, found.first, found.causes) == (starts, starts, None, {})
    assert found.held["engine"] == found.held["lab"] == found.held["both"] > 50
    assert found.engine_found > 300


def test_preempted_requests_look_their_blocks_up_again():
    found = compare(read_run(GOLDEN / "beside_each_other"), "as scheduled")
    assert found.starts == found.requests + found.preempted
    assert found.preempted == 2


def test_requests_beside_each_other_differ_in_order_and_the_first_difference_is_explained():
    found = compare(read_run(GOLDEN / "beside_each_other"), "in order")
    assert found.equal == found.starts - sum(found.causes.values()) < found.starts
    assert found.first.cause == ROOM
    assert found.first.lab_held and not found.first.engine_held
    assert found.first.removed_in_step < found.first.step
    assert UNKNOWN not in found.causes
    assert abs(found.to_json()["points"]) < 0.5


def test_a_block_that_the_engine_holds_twice_is_a_cause(tmp_path):
    run = Path(copytree(GOLDEN / "one_at_a_time", tmp_path / "run"))
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    lines[0]["events"] *= 2
    (run / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = [json.loads(line) for line in (run / "requests.jsonl").read_text().splitlines()]
    changed = next(row for row in rows if row["found"])
    changed["found"] -= 1
    (run / "requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = compare(read_run(run), "in order")
    assert found.causes == {COPIES: 1}
    assert found.first.request == changed["request"]
    assert set(found.causes) <= set(CAUSES)


def test_steps_that_stand_in_another_order_are_said_to(tmp_path):
    run = Path(copytree(GOLDEN / "preempting", tmp_path / "run"))
    lines = (run / "steps.jsonl").read_text().splitlines(keepends=True)
    (run / "steps.jsonl").write_text("".join(reversed(lines)))
    with pytest.raises(EngineError, match=r"step \d+ stands behind step \d+; restore the file"):
        as_scheduled(read_run(run))


def test_what_was_recorded_under_another_policy_or_not_at_all_is_refused():
    recording = read_run(GOLDEN / "one_at_a_time")
    with pytest.raises(EngineError, match="recorded under sieve"):
        compare(replace(recording, config=replace(recording.config, policy="sieve")), "in order")
    with pytest.raises(EngineError, match="holds no finished request; go on with engine record --resume"):
        compare(replace(recording, requests=()), "in order")

"""Recordings in the serving world under vLLM's rules: every step equal, and a parting that says why."""

import json
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest

from kv_cache_rl.experiments.engine import stepped
from kv_cache_rl.experiments.engine.folder import Config, Recorded, Step, read_run
from kv_cache_rl.experiments.engine.plan import plan_of, writers
from kv_cache_rl.experiments.engine.stepped import CAUSES, compare_steps, rules_of, server_of
from kv_cache_rl.experiments.engine.workloads import shared_prefixes
from kv_cache_rl.experiments.engine.writer import Writer

GOLDEN = Path(__file__).parents[2] / "golden/engine"
RECORDINGS = {
    "one_at_a_time": 1369,
    "beside_each_other": 763,
    "preempting": 541,
    "long_prompts": 428,
    "without_caching": 391,
}
"""A recording of a real vLLM → its steps."""


@pytest.mark.parametrize("name", RECORDINGS)
def test_every_step_of_a_recorded_vllm_is_the_serving_worlds(name):
    found = compare_steps(read_run(GOLDEN / name))
    assert (found.equal, found.steps, found.first) == (RECORDINGS[name], RECORDINGS[name], None)


@pytest.mark.parametrize("name", RECORDINGS)
def test_every_request_starts_finds_and_ends_as_in_the_recorded_vllm(name):
    recording = read_run(GOLDEN / name)
    server = server_of(recording)
    server.advance()
    server.check()
    rows = server.columns.rows
    assert [one.steps for one in recording.requests] == list(
        zip(rows["first"].tolist(), rows["ended"].tolist(), strict=True)
    )
    assert [one.found * 32 for one in recording.requests] == rows["found"].tolist()


def test_the_recordings_have_what_they_are_for():
    runs = {name: read_run(GOLDEN / name) for name in RECORDINGS}
    preempted = {name: compare_steps(run).preempted for name, run in runs.items()}
    assert preempted["one_at_a_time"] == 0
    assert min(preempted[name] for name in ("beside_each_other", "preempting", "long_prompts")) >= 2
    assert preempted["without_caching"] >= 2
    assert {run.config.max_num_seqs for run in runs.values()} == {1, 4, 6, 8}
    assert {run.config.at for run in runs.values()} == {"once", "step"}
    assert max(step.waiting for step in runs["preempting"].steps()) >= 3
    rules = rules_of(runs["long_prompts"].config)
    assert (rules.long_prefill, rules.watermark, rules.blocks) == (100, 9, 89)


@pytest.mark.parametrize(
    ("name", "changes", "why"),
    [
        ("beside_each_other", {"token_budget": 160}, stepped.GREW),
        ("beside_each_other", {"watermark": 0.3}, stepped.STARTED),
        ("beside_each_other", {"blocks": 60}, stepped.SHARED),
        ("beside_each_other", {"max_num_seqs": 3}, stepped.STARTED),
        ("beside_each_other", {"prefix_caching": False}, stepped.FOUND),
        ("preempting", {"blocks": 65}, stepped.SHARED),
        ("long_prompts", {"watermark": 0.0}, stepped.STARTED),
        ("long_prompts", {"long_prefill": 0}, stepped.GREW),
        ("without_caching", {"prefix_caching": True}, stepped.FOUND),
    ],
)
def test_under_another_rule_the_schedules_part_and_it_says_where_and_why(name, changes, why):
    recording = read_run(GOLDEN / name)
    found = compare_steps(replace(recording, config=replace(recording.config, **changes)))
    assert found.equal < found.steps
    assert found.first.engine != found.first.world
    assert found.first.why == why
    assert why in CAUSES
    if why != stepped.SHARED:
        assert found.first.engine_held != found.first.world_held
    assert json.loads(json.dumps(found.to_json()))["first"]["step"] == found.first.step


def lines_of(run, name):
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def write(run, name, lines):
    (run / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_preemption_that_only_the_engine_had_is_named(tmp_path):
    run = Path(copytree(GOLDEN / "preempting", tmp_path / "run"))
    lines = lines_of(run, "steps.jsonl")
    ended = {one.steps[1] for one in read_run(run).requests}
    quiet = ((at, line["ops"]) for at, line in enumerate(lines) if line["step"] not in ended)
    at, op = next((at, op) for at, ops in quiet for op in ops if op[0] == "take")
    lines[at]["ops"].append(["free", op[1]])
    lines[at]["running"] -= 1
    lines[at]["waiting"] += 1
    write(run, "steps.jsonl", lines)
    found = compare_steps(read_run(run))
    assert found.first.request == op[1]
    assert found.first.why == stepped.PREEMPTED
    assert (found.first.engine_held.state, found.first.world_held.state) == ("was preempted", "runs")


def test_a_request_that_the_engine_ends_later_is_named(tmp_path):
    run = Path(copytree(GOLDEN / "without_caching", tmp_path / "run"))
    requests = lines_of(run, "requests.jsonl")
    requests[0]["generated"] -= 1
    write(run, "requests.jsonl", requests)
    found = compare_steps(read_run(run))
    assert found.first.why == stepped.ENDED
    assert found.first.request == requests[0]["request"]


def test_steps_that_only_one_side_took_are_a_parting(tmp_path):
    run = Path(copytree(GOLDEN / "without_caching", tmp_path / "run"))
    lines = lines_of(run, "steps.jsonl")
    for line in lines[1:]:
        line["step"] += 1
    write(run, "steps.jsonl", lines)
    found = compare_steps(read_run(run))
    assert found.equal < found.steps
    assert found.first.engine is not None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"at": "trace"}, "requests came by the clock"),
        ({"requests": 41}, "40 of 41 requests are recorded"),
        ({"policy": "sieve"}, "recorded under sieve"),
    ],
)
def test_what_cannot_be_compared_says_why(changes, said):
    recording = read_run(GOLDEN / "beside_each_other")
    found = compare_steps(replace(recording, config=replace(recording.config, **changes)))
    assert (found.steps, found.first) == (0, None)
    assert said in found.not_compared


def test_a_recording_that_lost_its_steps_says_so(tmp_path):
    run = Path(copytree(GOLDEN / "beside_each_other", tmp_path / "run"))
    (run / "steps.jsonl").unlink()
    assert "restore steps.jsonl" in compare_steps(read_run(run)).not_compared


def test_a_long_pause_between_two_requests_has_no_steps(tmp_path):
    config = Config(
        engine="vllm 0.32.0",
        trace="made",
        source={},
        command="",
        requests=2,
        blocks=9,
        block_tokens=32,
        trace_block_tokens=32,
        max_num_seqs=2,
        token_budget=64,
        at="step",
        rate=1e6,
        model="tiny",
        seed=0,
        lengthened=0,
        working_set=2,
    )
    with Writer(tmp_path / "run", config, resume=False) as out:
        for number, step in enumerate((0, 3_000_000_000)):
            out.step(Step(step, 0.1, 0, 0, 8, 0, (("take", number, 0, 1, 2), ("free", number))))
            times = 3000.0 * number
            out.request(Recorded(number, times, 0, 40, 1, ((number, 1),), 0, 0, 0.0, 0.0, 0.0, (step, step)))
    found = compare_steps(read_run(tmp_path / "run"))
    assert (found.equal, found.steps, found.first) == (2, 2, None)


def test_which_request_wrote_a_block_of_a_prompt_is_told_alike_from_a_plan_and_from_its_recording():
    plan = plan_of(shared_prefixes(120, 8), 32)
    told = [one.waits_for for one in plan.requests]
    assert told == writers((one.blocks, one.prompt // 32) for one in plan.requests)
    assert sum(before >= 0 for before in told) > 20
    assert writers([((1, 2), 1), ((1, 2, 3), 2), ((1, 2, 3), 3)]) == [-1, 0, 1]

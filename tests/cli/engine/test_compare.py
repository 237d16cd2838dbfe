"""``engine compare``: real recordings beside the lab and the serving world, on the terminal and as JSON."""

import json
import shutil
from pathlib import Path

GOLDEN = Path(__file__).parents[2] / "golden/engine"


def test_one_at_a_time_every_request_is_equal(kv):
    said = kv("engine", "compare", GOLDEN / "one_at_a_time", "--check")
    assert said.code == 0
    assert "one_at_a_time, in order: 40 of 40 requests equal" in said.out
    assert "the lab beside vllm 0.32.0" in said.out


def test_beside_each_other_both_orders_stand_in_the_table_with_the_first_difference(kv):
    said = kv("engine", "compare", GOLDEN / "beside_each_other", "--check")
    assert said.code == 0
    assert "beside_each_other, in order: 39 of 40 requests equal" in said.out
    assert "beside_each_other, as scheduled: 42 of 42 starts equal" in said.out
    assert "first: request 21 in step" in said.out
    assert "vLLM had removed it in step" in said.out
    assert "1 x requests beside it held room" in said.out


def test_check_fails_where_a_request_differs(kv):
    assert kv("engine", "compare", GOLDEN / "beside_each_other", "--order", "in-order", "--check").code == 1
    assert kv("engine", "compare", GOLDEN / "beside_each_other", "--order", "in-order").code == 0


def test_json_has_the_counts_the_rates_and_the_causes(kv):
    rows = kv(
        "engine", "compare", *(GOLDEN / name for name in ("one_at_a_time", "beside_each_other")), "--json"
    )
    first, second, third = rows.json["rows"]
    assert (first["equal"], first["starts"], first["points"], first["first"]) == (40, 40, 0.0, None)
    assert (second["order"], third["order"]) == ("in order", "as scheduled")
    assert sum(second["causes"].values()) == second["starts"] - second["equal"]
    assert first["engine_rate"] == first["engine_found"] / first["prompt_blocks"]


def test_a_recording_that_is_not_complete_is_compared_as_far_as_it_goes(kv, tmp_path):
    run = Path(shutil.copytree(GOLDEN / "one_at_a_time", tmp_path / "run"))
    lines = (run / "requests.jsonl").read_text().splitlines(keepends=True)
    (run / "requests.jsonl").write_text("".join(lines[:20]) + lines[20][:30])
    said = kv("engine", "compare", run)
    assert "20 of 20 requests equal" in said.out
    assert "20 of 40 requests are recorded" in said.err


def test_beside_each_other_a_request_that_was_cut_off_or_lost_steps_are_named(kv, tmp_path):
    run = Path(shutil.copytree(GOLDEN / "beside_each_other", tmp_path / "run"))
    lines = (run / "requests.jsonl").read_text().splitlines(keepends=True)
    (run / "requests.jsonl").write_text("".join(lines[:20]))
    said = kv("engine", "compare", run)
    assert (said.code, "was cut off" in said.err, "--order in-order" in said.err) == (2, True, True)
    assert " of 20 requests equal" in kv("engine", "compare", run, "--order", "in-order").out
    (run / "steps.jsonl").unlink()
    assert "20 requests have no step" in kv("engine", "compare", run).err


def test_what_is_no_recording_is_refused(kv, tmp_path):
    assert "holds no recording" in kv("engine", "compare", tmp_path).err
    assert "unknown order 'sideways'" in kv("engine", "compare", tmp_path, "--order", "sideways").err
    run = Path(shutil.copytree(GOLDEN / "one_at_a_time", tmp_path / "run"))
    (run / "config.json").write_text("{")
    assert "is damaged" in kv("engine", "compare", run).err
    (run / "config.json").write_text(json.dumps({"format": "kv-cache-rl engine run", "version": 9}))
    assert "is no recording of version 1" in kv("engine", "compare", run).err


def test_steps_that_do_not_fit_each_other_are_named(kv, tmp_path):
    run = Path(shutil.copytree(GOLDEN / "one_at_a_time", tmp_path / "run"))
    first, *others = (run / "steps.jsonl").read_text().splitlines()
    step = json.loads(first)
    pool = json.loads((run / "config.json").read_text())["blocks"]
    for op, said in (
        (["free", 39], "request 39 frees blocks and holds none"),
        (["take", 39, None, 0, pool], "requests hold more blocks than the pool has"),
    ):
        changed = json.dumps(step | {"ops": [*step["ops"], op]})
        (run / "steps.jsonl").write_text("\n".join([changed, *others]) + "\n")
        refused = kv("engine", "compare", run, "--order", "as-scheduled")
        assert refused.code == 2 and said in " ".join(refused.err.split())


STEPPED = {"preempting": 541, "long_prompts": 428, "without_caching": 391}


def test_every_step_of_the_serving_world_is_counted(kv):
    said = kv("engine", "compare", *(GOLDEN / name for name in STEPPED))
    assert said.code == 0
    assert "the serving world under vLLM's rules beside vllm 0.32.0" in said.out
    for name, steps in STEPPED.items():
        assert f"{name}: {steps} of {steps} steps equal" in said.out
    assert "100 tokens of a prompt" in said.out and "no prefix caching" in said.out
    assert "without_caching, in order" not in said.out


def test_json_has_the_steps_beside_the_rows(kv):
    found = kv("engine", "compare", GOLDEN / "without_caching", GOLDEN / "preempting", "--json").json
    assert [row["recording"] for row in found["rows"]] == ["preempting", "preempting"]
    assert [(one["equal"], one["steps"], one["first"]) for one in found["steps"]] == [
        (391, 391, None),
        (541, 541, None),
    ]


def altered(tmp_path, **changes):
    run = Path(shutil.copytree(GOLDEN / "beside_each_other", tmp_path / "run"))
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | changes))
    return run


def test_where_the_schedules_part_stand_what_either_had_and_why(kv, tmp_path):
    run = altered(tmp_path, watermark=0.3)
    said = kv("engine", "compare", run, "--order", "as-scheduled")
    assert said.code == 0
    assert "run: 37 of 763 steps equal" in said.out
    assert (
        "first: step 37, vLLM 4 running, 2 waiting, 23 free, 0 preempted; the serving world 3 running, "
        "3 waiting, 27 free, 0 preempted"
    ) in said.out
    assert (
        "request 12: in vLLM it runs with 4 blocks, 0 found at its start, in the serving world it waits"
        in said.out
    )
    assert "one has started it and the other has not" in said.out
    assert kv("engine", "compare", run, "--order", "as-scheduled", "--check").code == 1
    first = kv("engine", "compare", run, "--json").json["steps"][0]["first"]
    assert (first["step"], first["request"], first["world_held"]["state"]) == (37, 12, "waits")


def test_a_recording_by_the_clock_says_why_its_steps_are_not_compared(kv, tmp_path):
    run = altered(tmp_path, at="trace")
    said = kv("engine", "compare", run, "--order", "as-scheduled", "--check")
    assert (said.code, "not compared" in said.out) == (0, True)
    assert "run: steps are not compared: requests came by the clock" in said.out


def test_an_order_of_the_lab_is_refused_without_prefix_caching(kv):
    said = kv("engine", "compare", GOLDEN / "without_caching", "--order", "in-order")
    assert (said.code, "leave --order out" in " ".join(said.err.split())) == (2, True)


def test_a_rule_that_no_engine_has_is_refused(kv, tmp_path):
    said = kv("engine", "compare", altered(tmp_path, token_budget=0), "--order", "in-order")
    assert (said.code, "token_budget is 0" in said.err) == (2, True)


def test_a_block_that_vllm_holds_twice_parts_the_hierarchy_lab_and_not_the_serving_world(kv):
    said = kv("engine", "compare", GOLDEN / "long_prompts", "--order", "as-scheduled", "--check")
    assert said.code == 1
    assert "long_prompts, as scheduled: 37 of 38 starts equal" in said.out
    assert "1 x the engine held a block twice, and so had room for one less" in said.out
    assert "long_prompts: 428 of 428 steps equal" in said.out
    names = "preempting", "without_caching"
    assert kv("engine", "compare", *(GOLDEN / name for name in names), "--check").code == 0

"""``engine compare``: real recordings beside the lab, on the terminal and as JSON."""

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

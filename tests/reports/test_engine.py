"""The table of the lab beside an engine, and the sentence of the README."""

from pathlib import Path

from kv_cache_rl.experiments.engine.comparison import compare
from kv_cache_rl.experiments.engine.folder import read_run
from kv_cache_rl.experiments.engine.stepped import compare_steps
from kv_cache_rl.reports.engine import cells, said, said_of_steps, step_cells

GOLDEN = Path(__file__).parents[1] / "golden/engine"


def row(name, order):
    return compare(read_run(GOLDEN / name), order).to_json()


def test_equal_rows_have_no_distance_and_the_pool_is_a_share_of_the_working_set():
    found = cells(row("one_at_a_time", "in order"))
    assert found[0] == "shared_prefixes"
    assert found[1:5] == ["61 (33 %)", "1", "in order", "40 of 40"]
    assert found[5] == found[6]
    assert found[7] == "0"


def test_a_difference_is_told_with_block_and_what_either_held():
    lines = said(row("beside_each_other", "in order"))
    assert lines[0].startswith(
        "beside_each_other, in order: 39 of 40 requests equal; at the end vLLM holds 59"
    )
    assert "the lab held it" in lines[1] and "vLLM had removed it in step" in lines[1]


def test_steps_stand_beside_the_rules_of_the_engine():
    found = step_cells(compare_steps(read_run(GOLDEN / "long_prompts")).to_json())
    assert found[1:4] == ["90 (52 %)", "6", "256"]
    assert found[4] == "100 tokens of a prompt, 10 % kept free"
    assert found[6] == "428 of 428"
    found = step_cells(compare_steps(read_run(GOLDEN / "without_caching")).to_json())
    assert found[4:] == ["no prefix caching", "2", "391 of 391"]


def test_a_step_of_one_side_alone_and_a_request_that_is_over_are_told():
    row = compare_steps(read_run(GOLDEN / "preempting")).to_json()
    held = {"state": "is over", "blocks": 0, "found": 0}
    first = {
        "step": 9,
        "engine": None,
        "world": {"running": 1, "waiting": 0, "free": 5, "preempted": 0},
        "request": 3,
        "engine_held": held,
        "world_held": held | {"state": "runs", "blocks": 2},
        "why": "one is through with it and the other is not",
    }
    lines = said_of_steps(row | {"first": first})
    assert lines[1] == (
        "  first: step 9, vLLM took no such step; the serving world 1 running, 0 waiting, 5 free, 0 preempted"
    )
    assert lines[2] == (
        "  request 3: in vLLM it is over, in the serving world it runs with 2 blocks, 0 found at its start"
    )

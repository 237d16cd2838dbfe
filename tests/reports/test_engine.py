"""The table of the lab beside an engine, and the sentence of the README."""

from pathlib import Path

from kv_cache_rl.experiments.engine.comparison import compare
from kv_cache_rl.experiments.engine.folder import read_run
from kv_cache_rl.reports.engine import cells, said

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

"""Results files come back as they were written, and a damaged line is named."""

import json

import pytest

from kv_cache_rl.reports.eviction.outcome import ResultsError, read_results, write_results


def test_outcomes_survive_the_file(outcomes, tmp_path):
    path = tmp_path / "results.jsonl"
    write_results(path, outcomes)
    assert read_results(path) == outcomes


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"scenario_id": "x"', "line 2: .*delimiter"),
        ("[]", "line 2: expected an object, found list"),
        ('{"scenario_id": "x"}', "line 2: the field 'difficulty' is missing"),
    ],
)
def test_a_damaged_line_is_named_with_the_remedy(outcomes, tmp_path, line, words):
    path = tmp_path / "results.jsonl"
    path.write_text(f"{json.dumps(outcomes[0].to_json())}\n{line}\n")
    with pytest.raises(ResultsError, match=f"{words}.*delete the line, then --resume"):
        read_results(path)


def test_a_number_that_no_float_holds_is_named(outcomes, tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(outcomes[0].to_json() | {"reward": 10**400}) + "\n")
    with pytest.raises(ResultsError, match="line 1: the field 'reward' is 1000"):
        read_results(path)

"""What is said while an evaluation runs."""

import json

import pytest

from kv_cache_rl.cli.eviction.live import Live
from kv_cache_rl.cli.eviction.runs import finished


@pytest.mark.parametrize("quiet", [True, False])
def test_a_run_that_goes_on_says_what_is_played_again_and_what_was_lost(tmp_path, capsys, quiet):
    rows = [{"model": "m", "error": None}, {"model": "m", "error": None}, {"model": "m", "error": "lost"}]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "no JSON\n")
    live = Live(3, quiet, finished=finished(tmp_path))
    live.begin("m")
    live.resumed(2)
    assert capsys.readouterr().err == "m: 2 of 3 rollouts kept, 1 played now\n"
    live.resumed(0)
    said = capsys.readouterr().err
    assert said.startswith(
        "m: 0 of 3 rollouts kept, 3 played now; 2 of those had ended well, but traces.jsonl"
    )
    assert finished(tmp_path / "none") == {}

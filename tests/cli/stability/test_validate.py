"""``stability validate`` and ``stability compare`` say what was found, in words, numbers and pictures."""

import json

import pytest
from PIL import Image

from kv_cache_rl.experiments.stability import hysteresis, validation
from kv_cache_rl.experiments.stability.validation import Effort


@pytest.fixture
def short(monkeypatch):
    """--fast is over in seconds, and says little."""
    monkeypatch.setattr(validation, "QUICK", Effort(2_500, 1, 6, 6))
    monkeypatch.setattr(hysteresis, "QUICK_LOOP", (1, 20.0))


def test_validate_prints_rows_with_predicted_simulated_and_gap(kv, short):
    said = kv(
        "stability",
        "validate",
        "--fast",
        "-w",
        "long-prompt",
        "-w",
        "claude-code",
        "--workers",
        "1",
        "--json",
    )
    assert said.code == 0, said.err
    assert [row["workload"] for row in said.json["rows"]] == ["long-prompt", "claude-code"]
    for row in said.json["rows"]:
        assert row["gap"] == pytest.approx(row["simulated"] / row["predicted"] - 1)
        assert row["reserve"]["simulated"] == row["simulated"]
        assert row["optimistic"]["simulated"] < row["simulated"]
    assert (
        said.json["rows"][0]["transformation"] == []
        and "prompts x" in said.json["rows"][1]["transformation"][0]
    )
    assert [row["published_rate"] for row in said.json["golden"]] == [3.263, 3.956, 2.902]
    assert said.json["hysteresis"]["bistable_between"][0] == pytest.approx(
        said.json["hysteresis"]["service_rate_nothing_found"]
    )


def test_validate_shows_a_table_and_leaves_the_figures_where_it_was_told(kv, short, tmp_path):
    said = kv("stability", "validate", "--fast", "-w", "mooncake", "--workers", "1", "--out", "out")
    assert said.code == 0, said.err
    for words in (
        "Theory against simulation",
        "mooncake: percentiles of 12,031 requests",
        "prompts x 0.02",
        " E[g] ",
        " E[g] exact ",
        "Why",
        "Hysteresis",
    ):
        assert words in said.out
    assert "\\" not in said.out, "brackets are printed as they are"
    kept = json.loads((tmp_path / "out/validation.json").read_text())
    assert kept["rows"][0]["workload"] == "mooncake"
    for name in ("boundary", "hysteresis"):
        picture = Image.open(tmp_path / f"out/{name}.png").convert("L")
        assert picture.width > 700 and picture.getextrema()[0] < 60 and picture.getextrema()[1] > 240


def test_a_trace_that_is_not_there_and_a_workload_that_does_not_exist_are_told(kv):
    missing = kv("stability", "validate", "--trace", "nowhere.jsonl")
    assert missing.code == 2 and "nowhere.jsonl" in missing.err
    unknown = kv("stability", "validate", "-w", "uniform")
    assert unknown.code == 2 and "unknown workload 'uniform'; use one of balanced" in unknown.err


def test_compare_prints_means_and_paired_differences(kv):
    said = kv("stability", "compare", "--task", "easy", "--seeds", "2", "--workers", "1", "--json")
    assert said.code == 0, said.err
    rows = {row["agent"]: row for row in said.json["rows"]}
    assert list(rows) == ["stability", "watermark_80", "watermark_90", "watermark_95", "lru"]
    for name, row in rows.items():
        difference = row["score_controller_minus_this"]
        if name == "stability":
            assert difference is None
        else:
            assert difference["mean"] == pytest.approx(
                rows["stability"]["score"]["mean"] - row["score"]["mean"]
            )


def test_compare_refuses_a_task_that_does_not_exist(kv):
    said = kv("stability", "compare", "--task", "hrad")
    assert said.code == 2 and "unknown task 'hrad'; did you mean hard?" in said.err

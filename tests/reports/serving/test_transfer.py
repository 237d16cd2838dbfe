"""Rows of agents where they were not trained, and a training's curve."""

import pytest

from kv_cache_rl.reports.canvas import save
from kv_cache_rl.reports.serving.training import curve_figure
from kv_cache_rl.reports.serving.transfer import markdown, rows_of


def episodes(agent, *scores):
    return [
        {"agent": agent, "seed": seed, "error": None, "report": {"score": score}}
        for seed, score in enumerate(scores)
    ]


def test_rows_hold_means_and_paired_differences_to_stability():
    world = [*episodes("stability", 0.5, 0.7), *episodes("ppo", 0.6, 0.8)]
    stability, ppo = rows_of({"half": world})
    assert stability["minus_stability"] is None and stability["score"]["mean"] == pytest.approx(0.6)
    assert ppo["minus_stability"]["mean"] == pytest.approx(0.1)
    assert ppo["minus_stability"]["high"] == pytest.approx(0.1), "equal differences have no width"
    assert "| `ppo` | 0.700 ± " in markdown([stability, ppo]) and "+0.100 ± 0.000 |" in markdown(
        [stability, ppo]
    )


def test_an_agent_that_failed_everywhere_has_no_score():
    failed = [{"agent": "mine", "seed": 0, "error": "KeyError", "report": None}]
    rows = rows_of({"half": [*episodes("stability", 0.5, 0.7), *failed]})
    assert rows[1]["score"] is None and rows[1]["minus_stability"] is None
    assert "| `mine` | - · - |" in markdown(rows)


@pytest.mark.parametrize("step", ["round", "episode"])
def test_a_curve_marks_the_point_that_was_kept(tmp_path, step):
    curve = [
        {step: 1, "select": {"easy": 0.5, "hard": 0.2}},
        {step: 2, "select": {"easy": 0.4, "hard": 0.6}},
        {step: 3, "select": {"easy": 0.5, "hard": 0.3}},
    ]
    figure = curve_figure("ppo", {"curve": curve, "training": {"select": 8}})
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["easy", "hard"]
    for axes in figure.axes:
        scores, kept = axes.get_lines()
        assert list(scores.get_xdata()) == [1, 2, 3] and list(kept.get_xdata()) == [2, 2]
    assert save(figure, tmp_path / "curve.png").stat().st_size > 1000

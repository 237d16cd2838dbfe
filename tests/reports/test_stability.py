"""The stability figures show the numbers of the committed validation, and are the same to the byte."""

import json
from pathlib import Path

import numpy as np
import pytest

from kv_cache_rl.reports.stability import FACES, boundary_figure, hysteresis_figure, plots

FOUND = json.loads((Path(__file__).parents[2] / "results" / "stability" / "validation.json").read_text())


def test_a_panel_per_workload_shows_the_measured_slopes_over_the_predicted_rate():
    figure = boundary_figure(FOUND["rows"])
    assert len(figure.axes) >= len(FOUND["rows"])
    for row, axes in zip(FOUND["rows"], figure.axes, strict=False):
        points = [p for p in row["reserve"]["slopes"] if p["start"] == "empty"]
        expected = sorted((p["rate"] / row["predicted"], p["slope"] / row["predicted"]) for p in points)
        drawn = [sorted(zip(*line.get_data(), strict=True)) for line in axes.get_lines()]
        assert any(np.allclose(line, expected) for line in drawn if len(line) == len(expected))
        turns = {rule: row[rule]["simulated"] / row["predicted"] for rule in ("reserve", "optimistic")}
        upright = [line.get_xdata()[0] for line in axes.get_lines() if len(set(line.get_xdata())) == 1]
        assert all(any(at == pytest.approx(x) for x in upright) for at in turns.values())


def test_the_loop_goes_up_and_down_again_once_per_sweep():
    figure = hysteresis_figure(FOUND["hysteresis"])
    sweeps = {(level["seed"], level["up"]) for level in FOUND["hysteresis"]["levels"]}
    for axes, face in zip(figure.axes, FACES, strict=False):
        lines = [line for line in axes.get_lines() if line.get_marker() in ("^", "v")]
        assert len(lines) == len(sweeps)
        values = {value for line in lines for value in line.get_ydata()}
        assert values == {level[face] for level in FOUND["hysteresis"]["levels"] if level[face] is not None}


@pytest.mark.slow
def test_the_same_results_give_the_same_files(tmp_path):
    first, second = plots(FOUND, tmp_path / "a"), plots(FOUND, tmp_path / "b")
    assert [path.name for path in first] == ["boundary.png", "hysteresis.png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]

"""The figures of the paged bench show the numbers of the committed bench."""

import json
from pathlib import Path

import pytest

from kv_cache_rl.reports.paged import fragmentation_figure, throughput_figure

DATA = json.loads((Path(__file__).parents[2] / "results" / "paged" / "bench.json").read_text())["data"]


def test_a_line_per_batch_shows_its_rates_and_the_best_block_is_marked():
    axes = throughput_figure(DATA["throughput"]).axes[0]
    rates = DATA["throughput"]["tokens_per_second"]
    sizes = sorted(map(int, rates))
    for batch in next(iter(rates.values())):
        expected = [rates[str(size)][batch] for size in sizes]
        assert any(list(line.get_ydata()) == expected for line in axes.get_lines())
    best = sizes.index(DATA["throughput"]["best_block"])
    assert any(list(line.get_xdata()) == [best, best] for line in axes.get_lines())
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(size) for size in sizes]


def test_a_bar_per_memory_is_as_long_as_its_parts_together():
    axes = fragmentation_figure(DATA["fragmentation"]).axes[0]
    rows = {**DATA["fragmentation"]["paged"], **DATA["fragmentation"]["reserved"]}
    ends: dict[float, float] = {}
    for bar in axes.patches:
        ends[bar.get_y()] = max(ends.get(bar.get_y(), 0.0), bar.get_x() + bar.get_width())
    together = [100 * sum(row[part] for part in ("tokens", "internal", "external")) for row in rows.values()]
    assert sorted(ends.values()) == pytest.approx(sorted(together))
    assert all(end <= 100 + 1e-9 for end in ends.values())

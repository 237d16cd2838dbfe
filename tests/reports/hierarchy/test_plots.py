"""A sweep's figures show its rows, the same to the byte; a folder that is no sweep is refused."""

import json
import math
import subprocess
import sys
from html import escape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest

from kv_cache_rl.experiments.hierarchy.ablation import regret_ablation
from kv_cache_rl.experiments.hierarchy.definition import sweep_of
from kv_cache_rl.experiments.hierarchy.sweep import run_sweep
from kv_cache_rl.reports.canvas import MARKERS, SERIES, margin_labels, style
from kv_cache_rl.reports.hierarchy import (
    ablation_figures,
    ablation_plots,
    curve_plot,
    plots,
    read,
    save,
    sweep_figures,
)
from kv_cache_rl.reports.hierarchy.curves import blocks_of
from kv_cache_rl.reports.hierarchy.prefetch import measured
from kv_cache_rl.reports.hierarchy.trade_off import front
from kv_cache_rl.sim.hierarchy.curves.runs import Curve
from kv_cache_rl.sim.hierarchy.spec import HierarchyError

ROOT = Path(__file__).parents[3]
DEFINITION = {
    "name": "small",
    "seeds": [1, 2, 3],
    "policies": ["lru", "fifo", "largest_first", "predictive"],
    "workloads": [
        {"workload": "rag_burst"},
        {"workload": "prefetch_friendly"},
        {"workload": "periodic_reuse"},
    ],
    "scenarios": [
        {"name": "one tier", "tiers": {"gpu": 0.25}},
        {"name": "tiers <b>", "laboratory": [1, 4], "prefetch": True},
        {"name": "tiers, no prefetch", "laboratory": [1, 4]},
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    run_sweep(sweep_of(DEFINITION), folder, command="kv-cache-rl hierarchy sweep small.toml")
    return folder


@pytest.fixture(scope="module")
def results(folder):
    return read(folder)


@pytest.fixture(scope="module")
def figures(results):
    with style():
        return {plot.name: plot.draw() for plot in sweep_figures(results)}


@pytest.fixture(scope="module")
def ablation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation")
    run_sweep(regret_ablation("kv-hierarchy-lab", (7, 42)), folder)
    return folder


def panel(figure, title):
    return next(axes for axes in figure.axes if axes.get_title(loc="left") == title)


def drawn(axes):
    """Policy -> x of its dot, from the panels that have a policy per line."""
    found = {}
    names = dict(enumerate(label.get_text() for label in axes.figure.axes[0].get_yticklabels()))
    for container in axes.containers:
        x, y = container.lines[0].get_data()
        found |= {names[int(line)]: float(value) for value, line in zip(x, y, strict=True)}
    return found


def of(results, scenario, workload, policy, metric):
    rows = [
        r for r in results.rows if (r["scenario"], r["workload"], r["policy"]) == (scenario, workload, policy)
    ]
    return [row["metrics"][metric] for row in rows]


def test_every_figure_is_a_file_and_the_page_shows_them_all(folder, tmp_path):
    files = plots(folder, tmp_path)
    assert all(path.is_file() and path.parent == tmp_path for path in files)
    assert files[-1].name == "index.html"
    assert {path.suffix for path in files[:-1]} == {".png"}
    page = files[-1].read_text()
    assert page.count("<img ") == page.count("data:image/png;base64,") == len(files) - 1
    assert "http" not in page and "<script" not in page
    assert "tiers &lt;b&gt;" in page and "<b>" not in page

    class Balanced(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open = []

        def handle_starttag(self, tag, attributes):
            if tag not in ("meta", "img"):
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    reader = Balanced()
    reader.feed(page)
    assert reader.open == []


def test_the_same_sweep_gives_the_same_bytes(folder, tmp_path):
    first, second = (plots(folder, tmp_path / name) for name in ("one", "two"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_users_own_matplotlib_style_changes_nothing(results, tmp_path):
    import matplotlib

    plot = sweep_figures(results)[0]
    written = []
    for settings in ({}, {"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 30}):
        with matplotlib.rc_context(settings), style():
            written.append(save(plot.draw(), tmp_path / "a.png").read_bytes())
    assert written[0] == written[1]


def test_svg_and_pdf_carry_no_date(results, tmp_path):
    for kind in ("svg", "pdf"):
        files = []
        for _ in range(2):
            with style():
                files.append(save(sweep_figures(results)[0].draw(), tmp_path / f"a.{kind}").read_bytes())
        assert files[0] == files[1]


@pytest.mark.parametrize(("metric", "factor"), [("overall_hit_rate", 100.0), ("avg_latency_ms", 1.0)])
def test_a_scenarios_dots_are_means_of_its_rows(results, figures, metric, factor):
    figure = figures[f"{metric}-01-tiers-b"]
    for workload in results.workloads:
        shown = drawn(panel(figure, workload))
        assert set(shown) == set(results.policies)
        for policy, value in shown.items():
            assert value == pytest.approx(factor * fmean(of(results, "tiers <b>", workload, policy, metric)))


def test_the_overview_shows_points_above_lru_and_the_bound(results, figures):
    axes = panel(figures["overall_hit_rate"], "one tier")
    shown = drawn(axes)
    means = {
        (w, p): 100 * fmean(of(results, "one tier", w, p, "overall_hit_rate"))
        for w in results.workloads
        for p in results.policies
    }
    for policy, value in shown.items():
        assert value == pytest.approx(fmean(means[w, policy] - means[w, "lru"] for w in results.workloads))
    bounds = [fmean(results.bound("one tier", w)[1]) - means[w, "lru"] for w in results.workloads]
    (line,) = [line for line in axes.lines if line.get_label() == "bound"]
    assert line.get_xdata()[0] == pytest.approx(fmean(bounds))
    assert max(shown.values()) <= fmean(bounds) + 1e-9


def test_the_overview_of_latency_is_a_geometric_mean_of_ratios(results, figures):
    shown = drawn(panel(figures["avg_latency_ms"], "one tier"))
    for policy, value in shown.items():
        ratios = [
            fmean(of(results, "one tier", w, policy, "avg_latency_ms"))
            / fmean(of(results, "one tier", w, "lru", "avg_latency_ms"))
            for w in results.workloads
        ]
        assert value == pytest.approx(math.exp(fmean(map(math.log, ratios))))


def test_a_scenario_that_moves_no_bytes_is_in_no_figure_of_bytes(figures):
    titles = [axes.get_title(loc="left") for axes in figures["bytes_moved"].axes]
    assert not any(title.startswith("one tier") for title in titles)
    assert "bytes_moved-00-one-tier" not in figures


def test_a_panel_in_which_all_policies_tie_says_so_and_names_no_best(results, figures):
    assert results.tied("one tier", "periodic_reuse")
    axes = panel(figures["overall_hit_rate-00-one-tier"], "periodic_reuse")
    assert [text.get_text() for text in axes.texts] == ["all policies tie"]
    assert not [container for container in axes.containers if container.get_label() == "best"]


def test_prefetches_are_compared_with_the_same_replay_without_them(results, figures):
    found = measured(results)
    assert {(scenario, policy) for scenario, policy, _ in found} == {("tiers <b>", "predictive")}
    line = found["tiers <b>", "predictive", "prefetch_friendly"]
    on, off = (
        of(results, s, "prefetch_friendly", "predictive", "avg_latency_ms")
        for s in ("tiers <b>", "tiers, no prefetch")
    )
    assert line["latency"] == pytest.approx([a / b for a, b in zip(on, off, strict=True)])
    assert line["useful"] == pytest.approx(
        [
            100 * value
            for value in of(results, "tiers <b>", "prefetch_friendly", "predictive", "prefetch_usefulness")
        ]
    )
    assert len(figures["prefetch"].axes) == 3


def test_the_front_holds_what_nothing_beats_in_both():
    points = {"a": (1.0, 3.0), "b": (2.0, 2.0), "worse": (2.0, 3.0), "c": (3.0, 1.0), "equal": (3.0, 1.0)}
    assert front(points) == ["a", "b", "c"]


def test_miss_ratios_have_the_curve_the_bound_and_the_policies_of_one_tier(results, figures):
    axes = panel(figures["miss_ratio"], "rag_burst")
    entry = results.curves["rag_burst"]
    lru = next(line for line in axes.lines if line.get_label().startswith("lru"))
    assert list(lru.get_ydata()) == pytest.approx([100 * (1 - rate) for rate in entry["lru"]])
    bound = next(line for line in axes.lines if line.get_label().startswith("bound"))
    assert list(bound.get_ydata()) == pytest.approx([100 * (1 - rate) for rate in entry["bound"]])
    shown = {round(float(y), 9) for line in axes.lines if line not in (lru, bound) for y in line.get_ydata()}
    rates = [
        of(results, "one tier", "rag_burst", policy, "overall_hit_rate")[0] for policy in results.policies
    ]
    assert shown == {round(100 * (1 - rate), 9) for rate in rates}


def test_a_capacity_in_bytes_is_not_taken_for_blocks(results):
    row = {"scenario": "one tier", "quantization_scheme": "fp16", "squeeze": "fp16"}
    assert blocks_of(results, row, 96) == 24
    for value, blocks in (("25%", 24), ("30", 30), (30, 30), ("80GB", None)):
        other = {"scenarios": [{"name": "one tier", "tiers": {"gpu": value}}]}
        assert blocks_of(type(results)("x", results.rows, metadata=other), row, 96) == blocks


def test_one_curve_has_a_band_and_points():
    exact = Curve("lru", np.arange(5), np.array([0.0, 0.2, 0.4, 0.6, 0.8]), 100)
    sampled = Curve(
        "lru, 0.1 of the blocks sampled", np.arange(5), np.array([0.0, 0.25, 0.4, 0.6, 0.8]), 100, 0.03
    )
    bound = Curve("min", np.array([1, 4]), np.array([0.3, 0.8]), 100)
    axes = curve_plot(exact, bound, "the bound", sampled, {"fifo": [(2, 0.3), (3, 0.5)]}, "title").axes[0]
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "bound: the bound" in names and "fifo" in names and any("± 3.00 points" in name for name in names)
    fifo = next(line for line in axes.lines if line.get_label() == "fifo")
    assert list(fifo.get_xdata()) == [2, 3] and list(fifo.get_ydata()) == [70, 50]
    (band,) = axes.collections
    heights = {round(float(y), 6) for y in band.get_paths()[0].vertices[:, 1]}
    assert {78.0, 72.0} <= heights


def test_labels_in_the_margin_stay_apart_and_inside():
    from matplotlib.figure import Figure

    axes = Figure((4, 3)).add_subplot()
    axes.set_ylim(0, 1)
    margin_labels(
        axes,
        {name: (0.5, y) for name, y in zip("abcdef", (0.97, 0.98, 0.99, 1.0, 0.5, 0.51), strict=True)},
        0.07,
    )
    heights = sorted(label.xyann[1] for label in axes.texts)
    assert all(b - a >= 0.07 - 1e-9 for a, b in pairwise(heights))
    assert heights[0] >= 0 and heights[-1] <= 1


def test_the_ablation_shows_means_and_deviations_over_its_seeds(ablation):
    results = read(ablation)
    found = {plot.name: plot for plot in ablation_figures(results)}
    assert list(found) == [
        "latency_by_horizon",
        "hit_rate_by_weight",
        "variants_latency_against_bytes",
        "latency_of_variants",
    ]
    with style():
        figure = found["latency_by_horizon"].draw()
    axes = panel(figure, "adversarial_burst, constrained")
    container = next(c for c in axes.containers if c.get_label() == "weight 12")
    names = [f"regret_aware_w12.0_h{horizon}" for horizon in (8, 24, 64)]
    values = [of(results, "constrained", "adversarial_burst", name, "avg_latency_ms") for name in names]
    assert list(container.lines[0].get_ydata()) == pytest.approx([fmean(v) for v in values])
    segments = container.lines[2][0].get_segments()
    assert [(b[1] - a[1]) / 2 for a, b in segments] == pytest.approx([stdev(v) for v in values])
    with style():
        bars = found["latency_of_variants"].draw().axes[0].patches
    assert len(bars) == len(results.policies)
    assert bars[0].get_width() == pytest.approx(
        fmean(of(results, "medium", "chat_continuation", "lru", "avg_latency_ms"))
    )


def test_the_plots_of_an_ablation_begin_with_its_own(ablation, tmp_path):
    files = ablation_plots(ablation, tmp_path)
    assert files[0].name == "latency_by_horizon.png" and files[-1].name == "index.html"


def test_a_sweep_that_is_no_ablation_is_told_so(folder, tmp_path):
    with pytest.raises(HierarchyError, match=r"no policy named after a weight and a horizon.*use plots"):
        ablation_plots(folder, tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (None, "", r"has no results.json.*hierarchy sweep"),
        ("results.json", "[]", "holds no rows"),
        ("results.json", "{", "it is not JSON"),
        ("results.json", '{"scenario_id": 1}', "holds no rows"),
        (
            "results.json",
            '[{"scenario_id": 1, "reward": 2}]',
            "row 0 has no 'scenario'.*not a row of a hierarchy sweep",
        ),
        (
            "results.json",
            '[{"scenario": "a", "workload": "b", "policy": "c", "metrics": {}}]',
            "no metric 'overall_hit_rate'",
        ),
        (
            "results.json",
            '[{"scenario": "a", "workload": "b", "policy": "c", "metrics": null, "error": '
            '"page 3 is too large"}]',
            "all 1 rows .* failed: page 3 is too large",
        ),
    ],
)
def test_an_empty_or_foreign_folder_is_named_with_the_remedy(tmp_path, name, text, words):
    if name:
        (tmp_path / name).write_text(text)
    with pytest.raises(HierarchyError, match=words):
        plots(tmp_path, tmp_path / "plots")
    assert not (tmp_path / "plots").exists()


DAMAGE = {
    "metrics of another type": ("results.json", (0, "metrics"), 5, "row 0: metrics is 5"),
    "a rate that is a text": (
        "results.json",
        (1, "metrics", "overall_hit_rate"),
        "0.5",
        "row 1: overall_hit_rate",
    ),
    "a name that is a list": ("results.json", (2, "policy"), ["lru"], r"row 2: policy is \['lru'\]"),
    "a bound that is a text": (
        "results.json",
        (0, "bound_hit_rate"),
        "all",
        "row 0: bound_hit_rate is 'all'",
    ),
    "void that is a text": ("results.json", (0, "void"), 3, "row 0: void is 3"),
    "no number": ("results.json", (0, "metrics", "bytes_moved"), math.nan, "it holds NaN"),
    "a curve of unequal columns": (
        "curves.json",
        ("rag_burst", "lru"),
        [0.5],
        "its columns differ",
    ),
    "a curve that is null": ("curves.json", ("rag_burst",), None, "rag_burst is no curve"),
    "capacities that fall": ("curves.json", ("rag_burst", "capacities"), [2, 1], "capacities is"),
    "tiers that are a number": ("run_metadata.json", ("scenarios", 0, "tiers"), 4, "scenarios: tiers is 4"),
    "scenarios that are none": ("run_metadata.json", ("scenarios",), [None], r"scenarios is \[None\]"),
    "counts that are texts": ("run_metadata.json", ("void", "policies", "of"), "3", "void is"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_file_of_the_folder_that_was_changed_is_named_with_its_field(folder, tmp_path, what):
    name, where, value, words = DAMAGE[what]
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    found = place = json.loads((tmp_path / name).read_text())
    for step in where[:-1]:
        place = place[step]
    place[where[-1]] = value
    (tmp_path / name).write_text(json.dumps(found))
    with pytest.raises(HierarchyError, match=f"{name}.*{words}.*run the sweep again"):
        read(tmp_path)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '[{"a": 1, "a": 2}]', "\xff", "9" * 5000], ids=["deep", "twice", "bytes", "long"]
)
def test_results_that_are_not_as_json_is_written_are_refused(tmp_path, text):
    (tmp_path / "results.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(HierarchyError, match=r"results\.json: .*run the sweep again"):
        read(tmp_path)


def test_panels_that_are_compared_share_one_axis_and_others_say_that_they_do_not(figures, results):
    drawn = {plot.name: plot for plot in sweep_figures(results)}
    alike = [name for name in drawn if name.startswith(("overall_hit_rate", "miss_ratio"))]
    alike += ["avg_latency_ms", "bytes_moved"]  # divided by those of lru
    for name, figure in figures.items():
        ranges = {axes.get_xlim() for axes in figure.axes}
        says = any("has a range of its own" in text.get_text() for text in figure.texts)
        if name in alike:
            assert len(ranges) == 1 and not says, name
        elif name.startswith(("avg_latency_ms", "bytes_moved")):
            assert says == (len(figure.axes) > 1), name


def test_an_exact_curve_is_a_line_through_its_points(figures, results):
    axes = panel(figures["miss_ratio"], "rag_burst")
    line = next(line for line in axes.lines if line.get_label() == "lru (exact)")
    assert line.get_drawstyle() == "default"
    entry = results.curves["rag_burst"]
    assert line.get_xdata().tolist() == entry["capacities"]
    assert line.get_ydata() == pytest.approx([100 * (1 - rate) for rate in entry["lru"]])


def test_a_title_stands_once_with_its_picture(folder, tmp_path):
    page = plots(folder, tmp_path)[-1].read_text()
    for plot in sweep_figures(read(folder)):
        assert page.count(escape(plot.title)) == 1, "in the picture itself, and as its text"


def test_rows_that_failed_are_counted_on_the_page_and_drawn_nowhere(folder, tmp_path):
    rows = json.loads((folder / "results.json").read_text())
    rows = [row for row in rows if row["workload"] == "rag_burst" and row["seed"] == 1]
    rows[0] = {**rows[0], "metrics": None, "error": "page 3 takes 9 bytes"}
    (tmp_path / "results.json").write_text(json.dumps(rows))
    page = plots(tmp_path, tmp_path / "plots")[-1].read_text()
    assert "1 rows failed and are in no figure" in page and "page 3 takes 9 bytes" in page


def test_one_seed_one_workload_and_no_lru_can_be_drawn_too(folder, tmp_path):
    rows = json.loads((folder / "results.json").read_text())
    few = [
        row for row in rows if (row["workload"], row["seed"]) == ("rag_burst", 1) and row["policy"] != "lru"
    ]
    (tmp_path / "results.json").write_text(json.dumps(few))
    results = read(tmp_path)
    with style():
        axes = next(plot for plot in sweep_figures(results) if plot.name == "overall_hit_rate").draw().axes[0]
    shown = drawn(axes)
    assert shown == pytest.approx(
        {row["policy"]: 100 * row["metrics"]["hit_rate"] for row in few if row["scenario"] == "one tier"}
    )


def test_matplotlib_is_imported_when_something_is_drawn_and_pyplot_never():
    program = (
        "import sys, kv_cache_rl.reports.hierarchy as r; early = 'matplotlib' in sys.modules;"
        "from kv_cache_rl.sim.hierarchy.curves.runs import Curve; import numpy as np;"
        "r.curve_plot(Curve('lru', np.arange(3), np.array([0.0, 0.5, 0.9]), 10));"
        "print(early, 'matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert out.split() == ["False", "True", "False"]


def test_colours_and_markers_are_all_different():
    assert len(set(SERIES)) == len(SERIES) == len(set(MARKERS)) == len(MARKERS)

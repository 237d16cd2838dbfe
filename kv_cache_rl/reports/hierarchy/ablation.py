"""The regret ablation's figures: latency by horizon, hit rate by weight, latency against bytes, and all of it
as bars.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from kv_cache_rl.reports import canvas
from kv_cache_rl.reports.canvas import GREY, INK, MARKERS, SERIES, Plot, Sheet
from kv_cache_rl.reports.hierarchy.rows import BYTES, HIT_RATE, LATENCY, Measure, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VARIANT = re.compile(r"(?P<policy>.+)_w(?P<weight>\d+(?:\.\d+)?)_h(?P<horizon>\d+)")
OVER = "bars: ± sample standard deviation over the seeds"
REFERENCES = (INK, GREY, canvas.VERMILION)
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)))


@dataclass(frozen=True, slots=True)
class Spread:
    """A mean over the seeds and its sample standard deviation."""

    mean: float
    std: float


def variants(results: Results) -> dict[str, tuple[float, int]]:
    """Policy -> (weight, horizon), of those whose name says so."""
    found = {name: VARIANT.fullmatch(name) for name in results.policies}
    return {name: (float(match["weight"]), int(match["horizon"])) for name, match in found.items() if match}


def spread(results: Results, measure: Measure, scenario: str, workload: str, policy: str) -> Spread:
    values = results.values(measure, scenario, workload, policy)
    return Spread(fmean(values), stdev(values) if len(values) > 1 else 0.0)


def ablation_figures(results: Results) -> list[Plot]:
    """The four figures of an ablation over weight and horizon; empty if the sweep is none."""
    known = variants(results)
    if not known:
        return []
    weights, horizons = (sorted({pair[k] for pair in known.values()}) for k in (0, 1))
    lines = f"{len(weights)} weights x {len(horizons)} horizons"
    seeds = f"mean over {len({row.get('seed') for row in results.rows})} seeds"
    titles = (
        f"Average latency by regret horizon, {seeds}",
        f"Hit rate in the fastest tier by regret weight, {seeds}",
        f"Latency against bytes moved, {lines}, {seeds}",
        f"Average latency of every variant, {seeds}",
    )
    draws: tuple[Callable[[], Figure], ...] = (
        lambda: _lines(results, known, LATENCY, titles[0], by_horizon=True),
        lambda: _lines(results, known, HIT_RATE, titles[1], by_horizon=False),
        lambda: _scatter(results, known, titles[2]),
        lambda: _bars(results, known, titles[3]),
    )
    names = (
        "latency_by_horizon",
        "hit_rate_by_weight",
        "variants_latency_against_bytes",
        "latency_of_variants",
    )
    readings = (
        _against_lru(results, known, LATENCY),
        _against_lru(results, known, HIT_RATE),
        "Down and left is better; colour is the weight, the marker the horizon.",
        _steadier(results, known),
    )
    return [Plot(*parts) for parts in zip(names, titles, readings, draws, strict=True)]


def _cells(results: Results) -> list[tuple[str, str]]:
    return [(scenario, workload) for scenario in results.scenarios for workload in results.workloads]


def _against_lru(results: Results, known: Mapping, measure: Measure) -> str:
    said = []
    for scenario, workload in _cells(results):
        if "lru" not in results.policies:
            return "lru was not replayed, so there is nothing to compare the variants with."
        base = spread(results, measure, scenario, workload, "lru").mean
        means = {name: spread(results, measure, scenario, workload, name).mean for name in known}
        better = sum(measure.best * (mean - base) > 1e-9 * max(abs(base), 1) for mean in means.values())
        said.append(f"{workload}, {scenario}: {better} of {len(known)}")
    return f"Variants better than lru: {'; '.join(said)}."


def _steadier(results: Results, known: Mapping) -> str:
    best = []
    for scenario, workload in _cells(results):
        means = {name: spread(results, LATENCY, scenario, workload, name).mean for name in results.policies}
        name = min(means, key=lambda name: (means[name], name))
        tie = all(abs(mean - means[name]) < 1e-9 for mean in means.values())
        best.append(f"{workload}, {scenario}: {'all tie' if tie else name}")
    return f"Fastest: {'; '.join(best)}."


def _panels(results: Results, width: float, height: float, sheet: Sheet) -> "tuple[Figure, list[Axes]]":
    figure, grid = canvas.laid_out(
        len(_cells(results)), width, height, replace(sheet, columns=len(results.workloads))
    )
    for axes, (scenario, workload) in zip(grid, _cells(results), strict=True):
        canvas.panel_title(axes, f"{workload}, {scenario}")
    return figure, grid


def _legend(figure: "Figure", axes: "Axes") -> None:
    """Below all panels; the entries are those of one of them."""
    wide, tall = figure.get_size_inches()
    handles, names = axes.get_legend_handles_labels()
    columns = max(int((wide - 0.2) / (canvas.width_of(names) + 0.55)), 1)
    figure.legend(handles, names, loc="lower left", bbox_to_anchor=(0.02 / wide, 0.02 / tall), ncols=columns)


def _lines(results: Results, known: Mapping, measure: Measure, title: str, by_horizon: bool) -> "Figure":
    """A line per weight over the horizons, or per horizon over the weights, at equal distances."""
    axis, series = (1, 0) if by_horizon else (0, 1)
    ticks, groups = (
        sorted({pair[axis] for pair in known.values()}),
        sorted({pair[series] for pair in known.values()}),
    )
    with canvas.style():
        what = "regret horizon, accesses" if by_horizon else "regret weight"
        sheet = Sheet(
            title, f"across: {what} · up: {measure.axis} · {OVER}", left=0.5, gap=(0.45, 0.6), below=0.62
        )
        figure, grid = _panels(results, 2.7, 1.9, sheet)
        for axes, (scenario, workload) in zip(grid, _cells(results), strict=True):
            for k, group in enumerate(groups):
                names = {pair[axis]: name for name, pair in known.items() if pair[series] == group}
                y = [
                    spread(results, measure, scenario, workload, names[tick])
                    for tick in ticks
                    if tick in names
                ]
                x = [
                    ticks.index(tick) + 0.09 * (k - (len(groups) - 1) / 2) for tick in ticks if tick in names
                ]
                label = f"{'weight' if by_horizon else 'horizon'} {group:g}"
                axes.errorbar(
                    x,
                    [s.mean for s in y],
                    [s.std for s in y],
                    label=label,
                    color=SERIES[k % 6],
                    marker=MARKERS[k % 6],
                    markersize=4,
                    linewidth=1.2,
                    elinewidth=0.9,
                    capsize=2,
                    zorder=3,
                )
            _references(axes, results, known, measure, scenario, workload)
            axes.set_xticks(range(len(ticks)), [f"{tick:g}" for tick in ticks])
            axes.margins(x=0.12, y=0.1)
        _legend(figure, grid[0])
    return figure


def _references(
    axes: "Axes", results: Results, known: Mapping, measure: Measure, scenario: str, workload: str
) -> None:
    """The policies without parameters as lines."""
    for k, name in enumerate(name for name in results.policies if name not in known):
        found = spread(results, measure, scenario, workload, name)
        axes.axhline(
            found.mean, color=REFERENCES[k % 3], linestyle=DASHES[k % 3], linewidth=1.2, label=name, zorder=2
        )


def _scatter(results: Results, known: Mapping, title: str) -> "Figure":
    weights, horizons = (sorted({pair[k] for pair in known.values()}) for k in (0, 1))
    with canvas.style():
        about = f"across: bytes moved over all links, MB · up: average latency, ms per request · {OVER}"
        rows = -(-len(results.policies) // 4)
        figure, grid = _panels(
            results, 2.7, 2.0, Sheet(title, about, left=0.5, gap=(0.45, 0.6), below=0.4 + 0.17 * rows)
        )
        for axes, (scenario, workload) in zip(grid, _cells(results), strict=True):
            for name in results.policies:
                x, y = (spread(results, m, scenario, workload, name) for m in (BYTES, LATENCY))
                colour, marker, size = INK, "X", 6
                if name in known:
                    weight, horizon = known[name]
                    colour, marker, size = (
                        SERIES[weights.index(weight) % 6],
                        MARKERS[horizons.index(horizon) % 6],
                        5,
                    )
                elif name != "lru":
                    colour, marker = GREY, "*"
                look = {
                    "color": colour,
                    "marker": marker,
                    "markersize": size,
                    "linestyle": "none",
                    "elinewidth": 0.5,
                }
                axes.errorbar(
                    x.mean, y.mean, y.std, x.std, label=_named(name, known), alpha=0.9, zorder=3, **look
                )
            axes.locator_params(axis="x", nbins=5)
            axes.margins(0.08)
        _legend(figure, grid[0])
    return figure


def _named(name: str, known: Mapping) -> str:
    return f"weight {known[name][0]:g}, horizon {known[name][1]}" if name in known else name


def _bars(results: Results, known: Mapping, title: str) -> "Figure":
    weights = sorted({weight for weight, _ in known.values()})
    rest = [name for name in results.policies if name not in known]
    order = [*rest, *sorted(known, key=lambda name: known[name])]
    with canvas.style():
        labels = [_named(name, known) for name in order]
        sheet = Sheet(
            title,
            f"average latency, ms per request · {OVER} · colour: weight",
            left=canvas.width_of(labels) + 0.12,
        )
        figure, grid = _panels(results, 2.6, 0.17 * len(order) + 0.12, sheet)
        for number, (axes, (scenario, workload)) in enumerate(zip(grid, _cells(results), strict=True)):
            found = [spread(results, LATENCY, scenario, workload, name) for name in order]
            colours = [SERIES[weights.index(known[name][0]) % 6] if name in known else GREY for name in order]
            axes.barh(
                range(len(order)),
                [s.mean for s in found],
                xerr=[s.std for s in found],
                color=colours,
                height=0.72,
                error_kw={"elinewidth": 0.9, "ecolor": INK, "capsize": 1.5},
                zorder=2,
            )
            axes.set_yticks(
                range(len(order)), labels if number % len(results.workloads) == 0 else [""] * len(order)
            )
            axes.set_ylim(len(order) - 0.4, -0.6)
            axes.grid(visible=False, axis="y")
            axes.set_xlim(left=0)
    return figure

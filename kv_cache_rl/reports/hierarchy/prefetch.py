"""What prefetches were good for: how many were used, and latency and bytes against the same replay without
them.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from kv_cache_rl.intervals import Interval, mean_interval
from kv_cache_rl.reports import canvas
from kv_cache_rl.reports.canvas import INK, Plot, Sheet
from kv_cache_rl.reports.hierarchy.rows import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SWITCHED = ("semantics", "quantization_scheme", "overlap", "recompute", "squeeze", "capacities")
"""What two rows share that differ in the prefetch switch alone."""
PANELS = (
    ("useful", "used before they left", "% of prefetches"),
    ("latency", "latency", "÷ that without prefetch; below 1 is faster"),
    ("bytes", "bytes moved", "÷ those without prefetch"),
)

Line = tuple[str, str, str]
"""Scenario, policy, workload."""


def prefetch_figures(results: Results) -> list[Plot]:
    """One figure, or none where nothing was prefetched."""
    found = measured(results)
    if not found:
        return []
    title = "Prefetches: how many were used, and what they cost against the same replay without them"
    return [Plot("prefetch", title, _reading(found), lambda: _figure(found, title))]


def measured(results: Results) -> dict[Line, dict[str, list[float]]]:
    """For every scenario, policy and workload that prefetched: values per seed, keys as in `PANELS`."""
    found: dict[Line, dict[str, list[float]]] = {}
    for row in results.rows:
        metrics = row["metrics"]
        if not metrics.get("prefetch_requests"):
            continue
        line = found.setdefault(
            (row["scenario"], row["policy"], row["workload"]), {"useful": [], "latency": [], "bytes": []}
        )
        line["useful"].append(100.0 * metrics["prefetch_usefulness"])
        twin = _twin(results, row)
        if twin:
            for key, metric in (("latency", "avg_latency_ms"), ("bytes", "bytes_moved")):
                if twin["metrics"][metric]:
                    line[key].append(metrics[metric] / twin["metrics"][metric])
    return found


def _twin(results: Results, row: dict) -> dict | None:
    """The same replay with the prefetch switch off."""
    for scenario in results.scenarios:
        for other in results.cells.get((scenario, row["workload"], row["policy"]), []):
            same = other.get("seed") == row.get("seed") and all(
                other.get(key) == row.get(key) for key in SWITCHED
            )
            if same and not other.get("prefetch_enabled"):
                return other
    return None


def _reading(found: dict[Line, dict[str, list[float]]]) -> str:
    useful = fmean(fmean(values["useful"]) for values in found.values())
    text = f"On average {useful:.0f} % of the prefetches were used. "
    ratios = {line: fmean(values["latency"]) for line, values in found.items() if values["latency"]}
    if not ratios:
        return (
            text
            + "No scenario of the sweep differs in the prefetch switch alone, so what they cost is not known."
        )
    said = []
    for scenario in dict.fromkeys(line[0] for line in ratios):
        mine = [ratio for line, ratio in ratios.items() if line[0] == scenario]
        said.append(
            f"{sum(ratio < 1 for ratio in mine)} of {len(mine)} in {scenario} (mean ratio {fmean(mine):.2f})"
        )
    return text + f"Prefetching makes a workload faster in {'; '.join(said)}."


def _figure(found: dict[Line, dict[str, list[float]]], title: str) -> "Figure":
    several = len({policy for _, policy, _ in found}) > 1
    rows = list(dict.fromkeys((policy, workload) for _, policy, workload in found))
    scenarios = list(dict.fromkeys(scenario for scenario, _, _ in found))
    labels = [f"{workload} ({policy})" if several else workload for policy, workload in rows]
    height = max(0.085 * len(scenarios) + 0.1, 0.24) * len(rows) + 0.1
    seeds = max(len(values["useful"]) for values in found.values())
    about = (
        f"bars: 95 % t interval over {seeds} seeds, cut where the axis ends"
        if seeds > 1
        else "one replay each"
    )
    with canvas.style():
        sheet = Sheet(title, about, _legend(scenarios), left=canvas.width_of(labels) + 0.12, below=0.5)
        figure, grid = canvas.laid_out(len(PANELS), 2.7, height, sheet)
        for number, (axes, (key, name, unit)) in enumerate(zip(grid, PANELS, strict=True)):
            axes.set_ylim(len(rows) - 0.4, -0.6)
            axes.set_yticks(range(len(rows)), [""] * len(rows) if number else labels)
            canvas.panel_title(axes, name)
            axes.set_xlabel(unit)
            means = [
                mean
                for k, s in enumerate(scenarios)
                for mean in _series(axes, found, rows, s, k, len(scenarios), key)
            ]
            centres = [mean.mean for mean in means] + ([] if key == "useful" else [1.0])
            ends = [end for mean in means for end in (mean.low, mean.high) if end is not None]
            if key != "useful":
                axes.axvline(1.0, color=INK, linewidth=0.8, zorder=1)
            top = 100.0 if key == "useful" else float("inf")
            canvas.span(axes, centres, ends, 4.0 if key == "useful" else 0.05, 0.0, top)
            if not any(values[key] for values in found.values()):
                canvas.note(axes, "no scenario without\nprefetch to compare with")
    return figure


def _look(k: int) -> dict:
    return {
        "color": canvas.SERIES[k % len(canvas.SERIES)],
        "marker": canvas.MARKERS[k % len(canvas.MARKERS)],
        "markersize": 4,
    }


def _legend(scenarios: Sequence[str]) -> list:
    from matplotlib.lines import Line2D

    return [Line2D([], [], linestyle="none", label=name, **_look(k)) for k, name in enumerate(scenarios)]


def _series(
    axes: "Axes", found: dict, rows: Sequence[tuple[str, str]], scenario: str, k: int, of: int, key: str
) -> list[Interval]:
    """Draws a scenario's dots, a little above or below the middle of their lines; returns their means."""
    means: list[tuple[float, Interval]] = []
    for y, (policy, workload) in enumerate(rows):
        mean = mean_interval(found.get((scenario, policy, workload), {}).get(key, []))
        if mean:
            means.append((y + 0.7 * ((k + 0.5) / of - 0.5), mean))
    x, half = [mean.mean for _, mean in means], [mean.half_width or 0.0 for _, mean in means]
    y = [place for place, _ in means]
    axes.errorbar(x, y, xerr=half, linestyle="none", elinewidth=0.9, label=scenario, zorder=3, **_look(k))
    return [mean for _, mean in means]

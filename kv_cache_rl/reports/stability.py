"""Figures of `stability validate`: where queues turn, and the hysteresis loop; drawn from the JSON that it
prints.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kv_cache_rl.reports import canvas
from kv_cache_rl.reports.canvas import BLUE, GREY, INK, PALE, VERMILION, Sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RULES = {
    "reserve": (BLUE, "o", "projected use fits (reserve)"),
    "optimistic": (VERMILION, "s", "whatever fits (optimistic)"),
}
"""Admission → colour, marker, name."""
FACES = {
    "found": "history found, share",
    "occupancy": "memory held by running requests, share",
    "waiting": "requests waiting",
}
"""Panels of the loop."""


def plots(found: Mapping[str, Any], folder: str | Path) -> list[Path]:
    """Writes both figures into a folder, and says where."""
    folder = Path(folder)
    drawn = {"boundary": boundary_figure(found["rows"]), "hysteresis": hysteresis_figure(found["hysteresis"])}
    return [canvas.save(figure, folder / f"{name}.png") for name, figure in drawn.items()]


def boundary_figure(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Queue slope against load, a panel per workload: flat until the boundary, then one for one."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Line2D(
            [],
            [],
            color=colour,
            marker=marker,
            linewidth=1,
            markersize=4,
            label=f"{name}; dashed: where its queue turns",
        )
        for colour, marker, name in RULES.values()
    ]
    handles += [
        Line2D([], [], color=INK, linewidth=0.8, linestyle=":", label="theory: 0, then λ - μ"),
        Patch(facecolor=PALE, label="undecided by theory: μ (1 - δ) to μ"),
    ]
    about = (
        "across: arrival rate λ over the predicted service rate μ · up: growth of the queue, requests per "
        "second over μ, from an empty server; median over seeds and its 95 % interval"
    )
    with canvas.style():
        sheet = Sheet(
            "Where the queue stops being bounded", about, handles, gap=(0.42, 0.62), columns=3, below=0.42
        )
        figure, grid = canvas.laid_out(len(rows), 2.5, 2.0, sheet)
        for row, axes in zip(rows, grid, strict=True):
            canvas.panel_title(
                axes, f"{row['workload']}: μ {row['predicted']:.3g}/s, boundary {row['gap']:+.1%}"
            )
            _slopes(axes, row)
    return figure


def _slopes(axes: "Axes", row: Mapping[str, Any]) -> None:
    rate = row["predicted"]
    axes.axvspan(row["predicted_stable_below"] / rate, 1.0, color=PALE, zorder=0)
    most = max(point["rate"] for point in row["reserve"]["slopes"]) / rate
    axes.plot([0.75, 1.0, most], [0.0, 0.0, most - 1.0], color=INK, linewidth=0.8, linestyle=":", zorder=2)
    for rule, (colour, marker, _) in RULES.items():
        points = sorted((p for p in row[rule]["slopes"] if p["start"] == "empty"), key=lambda p: p["rate"])
        x, y = [p["rate"] / rate for p in points], [p["slope"] / rate for p in points]
        reach = [
            [abs(p["interval"][end] / rate - at) for p, at in zip(points, y, strict=True)] for end in (0, 1)
        ]
        axes.errorbar(
            x,
            y,
            yerr=reach,
            color=colour,
            marker=marker,
            markersize=3.5,
            linewidth=1,
            elinewidth=0.8,
            zorder=3,
        )
        axes.axvline(
            row[rule]["simulated"] / rate, color=colour, linewidth=0.8, linestyle=(0, (4, 2)), zorder=1
        )
    axes.set_xlabel("λ / μ predicted")


def hysteresis_figure(loop: Mapping[str, Any]) -> "Figure":
    """The sweep up and down again, with the stable and unstable fixed points of theory."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=BLUE, marker="^", linewidth=0.9, markersize=3.5, label="simulated, load rising"),
        Line2D(
            [],
            [],
            color=VERMILION,
            marker="v",
            linewidth=0.9,
            markersize=3.5,
            label="simulated, load falling",
        ),
        Line2D([], [], color=INK, marker=".", linewidth=0, markersize=4, label="theory: stable"),
        Line2D([], [], color=GREY, marker=".", linewidth=0, markersize=2, label="theory: unstable"),
    ]
    about = (
        "across: arrival rate, requests per second, returns included · grey: two stable states, by theory "
        "· one line per sweep"
    )
    with canvas.style():
        sheet = Sheet(
            "A service that has lost its caches does not get them back at the same load",
            about,
            handles,
            gap=(0.42, 0.62),
            columns=3,
        )
        figure, grid = canvas.laid_out(len(FACES), 2.75, 2.4, sheet)
        for (face, name), axes in zip(FACES.items(), grid, strict=True):
            canvas.panel_title(axes, name)
            if loop["bistable_between"]:
                axes.axvspan(*loop["bistable_between"], color=PALE, zorder=0)
            _points(axes, loop["predicted"], face)
            _sweeps(axes, loop["levels"], face)
    return figure


def _points(axes: "Axes", predicted: Sequence[Mapping[str, Any]], face: str) -> None:
    for stable, colour, size in ((True, INK, 2.5), (False, GREY, 1.2)):
        found = [
            (at["rate"], p[face])
            for at in predicted
            for p in at["points"]
            if face in p and p["stable"] == stable
        ]
        if found:
            axes.plot(*zip(*found, strict=True), ".", color=colour, markersize=size, zorder=2)


def _sweeps(axes: "Axes", levels: Sequence[Mapping[str, Any]], face: str) -> None:
    for seed in sorted({level["seed"] for level in levels}):
        for up, colour, marker in ((True, BLUE, "^"), (False, VERMILION, "v")):
            mine = [
                level
                for level in levels
                if level["seed"] == seed and level["up"] == up and level[face] is not None
            ]
            x, y = [level["rate"] for level in mine], [level[face] for level in mine]
            axes.plot(x, y, color=colour, marker=marker, markersize=3, linewidth=0.9, alpha=0.75, zorder=3)

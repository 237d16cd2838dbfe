"""Latency against bytes moved, and which policies no other beats in both."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kv_cache_rl.reports import canvas
from kv_cache_rl.reports.canvas import BLUE, GREY, INK, Plot, Sheet
from kv_cache_rl.reports.hierarchy.panels import scenario_panel
from kv_cache_rl.reports.hierarchy.rows import BASE, BYTES, LATENCY, Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Points = Mapping[str, tuple[float, float]]
"""Policy -> (bytes, latency)."""


def trade_off(results: Results) -> Plot | None:
    """A panel per scenario and a point per policy; None where no scenario moves bytes."""
    relative = len(results.workloads) > 1 and BASE in results.policies
    panels = [
        (scenario, found)
        for scenario in results.scenarios
        if len(found := points_of(results, scenario, relative)) > 1
    ]
    if not panels:
        return None
    kind = "geometric mean" if relative else "mean"
    over = (
        f"{kind} over {len(results.workloads)} workloads"
        if len(results.workloads) > 1
        else results.workloads[0]
    )
    title = f"Latency against bytes moved by scenario, {over}"
    across, up = (
        f"{measure.title.lower()} ÷ that of {BASE}"
        if relative
        else f"{measure.title.lower()}, {measure.unit}"
        for measure in (BYTES, LATENCY)
    )
    always = sorted(set.intersection(*(set(front(points)) for _, points in panels)))
    slow = sum(_disagree(points) for _, points in panels)
    never = (
        f"{' and '.join(always)} {'are' if len(always) > 1 else 'is'} on it everywhere. " if always else ""
    )
    reading = (
        f"Down and left is better; the line joins the policies that no other beats in both. {never}The "
        f"policy that moves the fewest bytes is not the fastest in {slow} of {len(panels)} scenarios."
    )
    about = f"across: {across} · up: {up} · the blue line joins what no policy beats in both"
    return Plot("latency_against_bytes", title, reading, lambda: _figure(panels, title, about, relative))


def points_of(results: Results, scenario: str, relative: bool) -> dict[str, tuple[float, float]]:
    """Bytes and latency of the policies in a scenario; empty where no bytes move."""
    across, up = (scenario_panel(results, measure, scenario, relative) for measure in (BYTES, LATENCY))
    if across is None or up is None:
        return {}
    x, y = across.means(), up.means()
    return {name: (x[name].mean, y[name].mean) for name in x if name in y}


def front(points: Points) -> list[str]:
    """The points that no other one beats or equals in both coordinates, by the first."""
    found: list[str] = []
    for name in sorted(points, key=lambda name: (*points[name], name)):
        if not found or points[name][1] < points[found[-1]][1]:
            found.append(name)
    return found


def _disagree(points: Points) -> bool:
    least, fastest = min(x for x, _ in points.values()), min(y for _, y in points.values())
    return (least, fastest) not in points.values()


def _named(name: str, points: Points) -> str:
    same = [other for other in points if points[other] == points[name]]
    return name if len(same) == 1 else f"{name} +{len(same) - 1}"


def _figure(panels: Sequence[tuple[str, Points]], title: str, about: str, relative: bool) -> "Figure":
    room = canvas.width_of([name for _, points in panels for name in points], 7) + 0.35
    with canvas.style():
        figure, grid = canvas.laid_out(
            len(panels),
            2.4,
            1.9,
            Sheet(title, about, left=0.55, right=room, gap=(room + 0.35, 0.6), columns=3),
        )
        for axes, (scenario, points) in zip(grid, panels, strict=True):
            kept = front(points)
            canvas.panel_title(axes, scenario)
            axes.scatter(*zip(*points.values(), strict=True), s=14, color=GREY, zorder=3, label="policies")
            axes.plot(
                *zip(*(points[name] for name in kept), strict=True),
                color=BLUE,
                marker="D",
                markersize=4.5,
                zorder=4,
            )
            if BASE in points:
                axes.plot(*points[BASE], color=INK, marker="s", markersize=4.5, linestyle="none", zorder=5)
            if relative:
                axes.axhline(1.0, color=INK, linewidth=0.6, zorder=1)
                axes.axvline(1.0, color=INK, linewidth=0.6, zorder=1)
            axes.margins(0.08)
            axes.locator_params(nbins=5)
            named = [*kept, *([BASE] if BASE in points and BASE not in kept else [])]
            canvas.margin_labels(axes, {_named(name, points): points[name] for name in named})
    return figure

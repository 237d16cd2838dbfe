"""Replays over time: hits, waiting, and how full the tiers are."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kv_cache_rl.reports import canvas
from kv_cache_rl.reports.canvas import Sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from kv_cache_rl.sim.hierarchy.course import Course

UNITS = ((3600.0, "hours"), (60.0, "minutes"), (0.0, "seconds"))
"""Least span in seconds -> what the axis counts."""
LINES = ((0, (1, 0)), (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
"""One per tier."""


def course_plot(courses: Sequence["Course"], title: str, capacities: Sequence[str]) -> "Figure":
    """A line per policy over the trace's clock: hits in the fastest tier, what is found in any tier, mean
    latency, and how full each tier is.

    Args:
        courses: one per policy, of the same trace and tiers.
        title: of the figure.
        capacities: what each tier holds, in words.
    """
    first = courses[0]
    clock, unit = clock_of(first)
    lower = len(first.tiers) > 1
    top = first.tiers[0]
    panels = [(f"found in {top}, % of accesses", [100 * one.served[:, 0] for one in courses])]
    if lower:
        everywhere = [100 * (1 - one.served[:, -1]) for one in courses]
        panels.append(("found in any tier, % of accesses", everywhere))
    panels.append(("mean latency of a request, ms", [1e3 * one.latency_s for one in courses]))
    across = unit if unit == "requests" else f"{unit} of the trace"
    sizes = ", ".join(f"{name} {size}" for name, size in zip(first.tiers, capacities, strict=True))
    about = f"across: {across} · every point: {parts_of(first)} · tiers: {sizes}"
    names = [*(one.policy for one in courses), *first.tiers]
    with canvas.style():
        sheet = Sheet(
            title,
            about,
            left=0.55,
            right=canvas.width_of(names) + 0.7,
            columns=1,
            gap=(0.25, 0.42),
            below=0.45,
        )
        figure, places = canvas.laid_out(len(panels) + 1, 5.2, 1.25, sheet)
        colours = [canvas.SERIES[k % len(canvas.SERIES)] for k in range(len(courses))]
        for axes, (heading, lines) in zip(places, panels, strict=False):
            for one, line, colour in zip(courses, lines, colours, strict=True):
                axes.plot(clock, line, color=colour, linewidth=0.9, label=one.policy, marker=dot_of(clock))
            canvas.panel_title(axes, heading)
            axes.set_ylim(0, 102 if heading.endswith("accesses") and max(map(np.max, lines)) > 60 else None)
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        _occupancy(places[-1], clock, courses, colours)
        for axes in places:
            axes.set_xlim(clock[0] if len(clock) > 1 else 0, clock[-1] if clock[-1] > clock[0] else None)
        places[-1].set_xlabel(unit)
    return figure


def _occupancy(axes: "Axes", clock: np.ndarray, courses: Sequence["Course"], colours: Sequence[str]) -> None:
    """How full each tier is: policies by colour, tiers by dashes."""
    from matplotlib.lines import Line2D

    for one, colour in zip(courses, colours, strict=True):
        for tier in range(len(one.tiers)):
            look = {"linestyle": LINES[tier], "linewidth": 0.9, "marker": dot_of(clock)}
            axes.plot(clock, 100 * one.used[:, tier], color=colour, **look)
    canvas.panel_title(axes, "how full the tiers are, %")
    axes.set_ylim(0, 104)
    handles = [
        Line2D([], [], color=canvas.INK if len(courses) > 1 else colours[0], linestyle=LINES[t], label=name)
        for t, name in enumerate(courses[0].tiers)
    ]
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5))


def dot_of(clock: np.ndarray) -> str:
    """A mark for a line of a single point, which would be invisible."""
    return "o" if len(clock) == 1 else ""


def clock_of(course: "Course") -> tuple[np.ndarray, str]:
    """Where the points lie across, and in which unit: requests where the trace has no clock, or one that
    stands still.
    """
    span = float(course.time_s[-1] - course.time_s[0])
    if span <= 0 or not course.clocked:
        return course.requests.astype(float), "requests"
    size, unit = next((max(least, 1.0), name) for least, name in UNITS if span >= 2 * least)
    return course.time_s / size, unit


def parts_of(course: "Course") -> str:
    """How many requests a point stands for."""
    count = int(course.requests[0])
    return f"{count:,} requests" if count > 1 else "a request"

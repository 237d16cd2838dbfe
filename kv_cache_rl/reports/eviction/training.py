"""Training curves: the scores on what is learned from, on `train`, and on what is held out."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kv_cache_rl.reports import canvas
from kv_cache_rl.reports.canvas import BLUE, GREY, VERMILION, Sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = {
    "learn": (GREY, "s", "learned from"),
    "select": (BLUE, "o", "not learned from: the train set"),
    "held_out": (VERMILION, "^", "held out: the eval set"),
}
"""Part of the scenarios → colour, marker, name."""


def curves(found: Mapping[str, Mapping[str, Any]]) -> "Figure":
    """A panel per decider, from what `eviction train --json` prints as ``deciders``."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker=marker, linewidth=1, markersize=3.5, label=name)
        for colour, marker, name in PARTS.values()
    ]
    about = (
        "across: generations of the search · up: mean normalised score, floor 0, oracle 1 · dashed: the "
        "generation that was kept"
    )
    with canvas.style():
        sheet = Sheet(
            "Training, and what it is worth on other scenarios", about, handles, gap=(0.42, 0.62), below=0.48
        )
        figure, grid = canvas.laid_out(len(found), 3.2, 2.4, sheet)
        for (name, record), axes in zip(found.items(), grid, strict=True):
            canvas.panel_title(axes, name)
            _panel(axes, record)
    return figure


def _panel(axes: Any, record: Mapping[str, Any]) -> None:
    curve = record["curve"]
    generations = [point["generation"] for point in curve]
    for part, (colour, marker, _) in PARTS.items():
        if part in curve[0]:
            means = [float(np.mean(list(point[part].values()))) for point in curve]
            axes.plot(generations, means, color=colour, marker=marker, markersize=2.5, linewidth=1)
    axes.axvline(record["kept"], color=GREY, linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
    axes.set_xlabel("generation")

"""The curve of an agent's training: its scores on the selection seeds from round to round."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kv_cache_rl.reports import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = ("round", "episode")
"""What the points of a curve are counted in."""
SHOWN, EDGE = 0.03, 0.003
"""How far below the best score a panel reaches, and above it: first rounds can be far below."""


def curve_figure(agent: str, record: Mapping[str, Any]) -> "Figure":
    """A panel per task, from what ``serving train --json`` prints; dashed: the point that was kept."""
    curve = record["curve"]
    step = next(name for name in STEPS if name in curve[0])
    tasks = list(curve[0]["select"])
    across = [point[step] for point in curve]
    kept = across[int(np.argmax([np.mean(list(point["select"].values())) for point in curve]))]
    count = record["training"]["select"]
    about = (
        f"across: {step}s · up: mean score on {count} selection seeds, down to {SHOWN} below the best · "
        "dashed: what was kept"
    )
    with canvas.style():
        sheet = canvas.Sheet(f"Training of {agent}", about, gap=(0.5, 0.62), below=0.48)
        figure, places = canvas.laid_out(len(tasks), 2.4, 1.9, sheet)
        for axes, name in zip(places, tasks, strict=True):
            canvas.panel_title(axes, name)
            scores = [point["select"][name] for point in curve]
            axes.plot(across, scores, color=canvas.BLUE, marker="o", markersize=2.5, linewidth=1)
            axes.ticklabel_format(axis="y", useOffset=False)
            axes.set_ylim(max(min(scores) - EDGE, max(scores) - SHOWN), max(scores) + EDGE)
            axes.axvline(kept, color=canvas.GREY, linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
            axes.set_xlabel(step)
    return figure

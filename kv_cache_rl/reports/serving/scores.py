"""Scores of agents on tasks as a figure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kv_cache_rl.intervals import T_INTERVAL
from kv_cache_rl.reports import canvas
from kv_cache_rl.reports.serving.tables import BOUND, REFERENCE, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def score_figure(found: Sequence[Result], base: str) -> "Figure":
    """A panel per task, a bar per agent with its interval, best first; the base is dark, the best agent of a
    task blue.
    """
    from matplotlib.lines import Line2D

    scored = [(one, mean) for one in found if one.agent != BOUND and (mean := one.means["score"]) is not None]
    tasks = list(dict.fromkeys(one.task for one, _ in scored))
    total = {
        name: sum(mean.mean for one, mean in scored if one.agent == name)
        for name in {one.agent for one, _ in scored}
    }
    order = sorted(total, key=lambda name: (-total[name], name))
    roles = (
        ("D", canvas.BLUE, 4.6, "best agent"),
        ("s", canvas.INK, 4.2, base),
        ("o", canvas.GREY, 3.6, "others"),
    )
    legend = [
        Line2D([], [], marker=m, color=c, linestyle="", markersize=size, label=text)
        for m, c, size, text in roles
    ]
    episodes = max((one.episodes for one, _ in scored), default=0)
    about = (
        f"score, 1 is the fluid bound with nobody ever waiting; whiskers: {T_INTERVAL} over seeds, n = "
        f"{episodes}; by mean over tasks"
    )
    sheet = canvas.Sheet("Agents on the serving tasks", about, legend, left=0.25 + canvas.width_of(order))
    with canvas.style():
        figure, places = canvas.laid_out(len(tasks), 1.9, 0.2 * len(order) + 0.15, sheet)
        for index, (axes, task) in enumerate(zip(places, tasks, strict=True)):
            means = {one.agent: mean for one, mean in scored if one.task == task}
            ranked = sorted((name for name in means if name != REFERENCE), key=lambda name: -means[name].mean)
            canvas.dots(axes, order, means, ranked[:1], base, names=index == 0)
            for y, name in enumerate(order):
                axes.barh(
                    y, means[name].mean if name in means else 0.0, height=0.62, color=canvas.PALE, zorder=1
                )
            axes.set_xlim(0, 1.02)
            canvas.panel_title(axes, task)
    return figure

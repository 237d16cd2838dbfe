"""An episode over time: memory in use, requests waiting, in service, arrived and completed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kv_cache_rl.reports import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Lines = dict[str, tuple[str, str]]
"""Key of a record → label and colour."""

PANELS: tuple[tuple[str, Lines], ...] = (
    (
        "memory in use, share of blocks",
        {"gpu_utilization": ("GPU", canvas.BLUE), "cpu_utilization": ("CPU", canvas.ORANGE)},
    ),
    ("requests waiting", {"free_queue": ("Free", canvas.GREEN), "vip_queue": ("VIP", canvas.VERMILION)}),
    ("requests in service", {"active": ("in service", canvas.PURPLE)}),
    ("requests so far", {"arrived": ("arrived", canvas.GREY), "completed": ("completed", canvas.INK)}),
)
POINTS = 2_000
"""More would fall on each other."""


def timeline(records: Sequence[dict[str, Any]], title: str) -> "Figure":
    """A panel for each of memory, queues, service and completions over simulated seconds;

    `records` are a log's lines.
    """
    with canvas.style():
        sheet = canvas.Sheet(
            title, "across: simulated seconds", left=0.55, right=1.0, columns=1, gap=(0.25, 0.42), below=0.42
        )
        figure, places = canvas.laid_out(len(PANELS), 5.2, 1.05, sheet)
        step = max(1, -(-len(records) // POINTS))
        shown = [*records[::step], *records[-1:]]
        clock = [record["clock_s"] for record in shown]
        for axes, (heading, lines) in zip(places, PANELS, strict=True):
            for key, (label, colour) in lines.items():
                axes.plot(clock, [record[key] for record in shown], color=colour, linewidth=0.9, label=label)
            canvas.panel_title(axes, heading)
            axes.set_xlim(0, max([*clock, 1e-9]))
            axes.set_ylim(0, 1.03 if "gpu_utilization" in lines else None)
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure

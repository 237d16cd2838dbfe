"""Hit rate by capacity: a line per policy, LRU exact at every capacity, under the bound."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kv_cache_rl.amounts import amount
from kv_cache_rl.reports import canvas
from kv_cache_rl.reports.canvas import INK, VERMILION, Sheet
from kv_cache_rl.reports.hierarchy.curves import points_apart, short_count
from kv_cache_rl.sim.hierarchy.curves.runs import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def capacity_plot(
    title: str,
    capacities: Sequence[int],
    rates: Mapping[str, Sequence[float]],
    bound: Sequence[float],
    bound_name: str,
    exact: Curve,
    block_bytes: float | None,
) -> "Figure":
    """The curves of one trace in one tier.

    Args:
        title: of the figure.
        capacities: in blocks.
        rates: policy -> hit rate at each capacity.
        bound: what no policy can beat at each capacity.
        bound_name: what the bound is called.
        exact: LRU at every capacity, drawn if it is among the policies.
        block_bytes: bytes of a block, for an axis in bytes; None: the axis counts blocks.
    """
    labels = [*rates, f"bound: {bound_name}".replace(" with", "\nwith")]
    about = "across: capacity of the fastest tier, logarithmic · up: block accesses that hit, %"
    with canvas.style():
        sheet = Sheet(title, about, right=canvas.width_of(labels) + 0.75, below=0.85 if block_bytes else 0.5)
        figure, (axes,) = canvas.laid_out(1, 5.2, 3.3, sheet)
        size = block_bytes or 1.0
        axes.set_xscale("log")
        low, high = capacities[0], max(capacities[-1], capacities[0] * 1.01)
        for name, look in zip(rates, canvas.looks(len(rates)), strict=True):
            if name == exact.policy:
                keep = points_apart(exact.capacities, low, high)
                x, y = exact.capacities[keep] * size, 100 * exact.hit_rate[keep]
                axes.plot(x, y, color=INK, linewidth=1.5, label=f"{name} (exact)", zorder=3)
            else:
                x, y = [size * at for at in capacities], [100 * rate for rate in rates[name]]
                axes.plot(x, y, linewidth=1.1, label=name, zorder=4, **look)
        axes.plot(
            [size * at for at in capacities],
            [100 * rate for rate in bound],
            color=VERMILION,
            linestyle=(0, (4, 2)),
            linewidth=1.5,
            label=labels[-1],
            zorder=3,
        )
        axes.set_xlim(size * low, size * high)
        axes.set_ylim(0, None)
        axes.set_ylabel("hit rate, % of block accesses")
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        _scales(axes, block_bytes)
    return figure


def _scales(axes: "Axes", block_bytes: float | None) -> None:
    """Bytes across where they are known, and blocks under them; else blocks."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axes.get_xlim()
    steps = (1.0, 2.0, 5.0) if high / low < 1000 else (1.0,)

    def ticked(axis, form) -> None:
        axis.set_major_locator(LogLocator(10, steps))
        axis.set_major_formatter(FuncFormatter(lambda value, _: form(value)))
        axis.set_minor_locator(NullLocator())

    if not block_bytes:
        ticked(axes.xaxis, short_count)
        axes.set_xlabel("capacity, blocks")
        return
    ticked(axes.xaxis, amount)
    axes.set_xlabel(f"capacity; a block has {amount(block_bytes)}")
    size = block_bytes
    there_and_back = (lambda x: np.asarray(x, float) / size, lambda x: np.asarray(x, float) * size)
    below = axes.secondary_xaxis(-0.16, functions=there_and_back)
    ticked(below.xaxis, short_count)
    below.set_xlabel("capacity, blocks")

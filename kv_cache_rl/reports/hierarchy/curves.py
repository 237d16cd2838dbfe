"""Miss-ratio curves: exact LRU, a sampled estimate with its error, policies as points, and the bound they
cannot cross.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kv_cache_rl.reports import canvas
from kv_cache_rl.reports.canvas import BLUE, GREY, INK, ORANGE, VERMILION, Plot, Sheet
from kv_cache_rl.reports.hierarchy.rows import HIT_RATE, Results, best_of
from kv_cache_rl.sim.hierarchy.curves.runs import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Mapping[str, Sequence[tuple[int, float]]]
"""Policy -> (capacity in blocks, hit rate as a fraction), any number of them."""


def curve_plot(
    exact: Curve,
    bound: Curve | None = None,
    bound_name: str = "MIN",
    sampled: Curve | None = None,
    points: Points | None = None,
    title: str = "Miss ratio by capacity",
) -> "Figure":
    """The miss-ratio curve of one trace.

    A sampled curve has a band of its expected mean absolute error around it.
    """
    with canvas.style():
        about = "across: capacity, blocks · up: accesses that miss · nothing can lie below the bound"
        figure, grid = canvas.laid_out(
            1, 5.6, 3.5, Sheet(title, about, right=canvas.width_of([bound_name]) + 1.2, below=0.5)
        )
        axes = grid[0]
        draw(axes, exact, bound, sampled, bound_name)
        for name, style in zip(points or {}, canvas.looks(len(points or {})), strict=True):
            capacities, rates = zip(*(points or {})[name], strict=True)
            miss = [100 * (1 - rate) for rate in rates]
            axes.plot(capacities, miss, **(style | {"markersize": 5}), linestyle="none", label=name, zorder=4)
        axes.set_xlabel("capacity, blocks")
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return figure


def draw(
    axes: "Axes",
    exact: Curve,
    bound: Curve | None,
    sampled: Curve | None,
    bound_name: str,
    widest: float = 0,
) -> None:
    """Draws the curves of a trace, over all capacities up to its blocks or those of the `widest` trace beside
    it; the logarithmic axis leaves out capacity 0, where everything misses.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    x, y = _miss(exact)
    axes.plot(x, y, color=INK, linewidth=1.5, label=f"{exact.policy} (exact)", zorder=3)
    if bound is not None:
        x, y = _miss(bound)
        axes.plot(
            x,
            y,
            color=VERMILION,
            linestyle=(0, (4, 2)),
            linewidth=1.5,
            label=f"bound: {bound_name}",
            zorder=3,
        )
    if sampled is not None:
        x, y = _miss(sampled)
        off, name = 100 * sampled.error, sampled.policy.replace(", ", ",\n")
        axes.plot(x, y, color=ORANGE, linewidth=1.0, label=f"SHARDS: {name}", zorder=2)
        low, high = [value - off for value in y], [value + off for value in y]
        band = f"± {off:.2f} points, the mean\nabsolute error it expects"
        axes.fill_between(x, low, high, color=ORANGE, alpha=0.35, linewidth=0, label=band)
    axes.set_ylim(-2, 102)
    axes.set_ylabel("miss ratio, % of accesses")
    blocks = max(float(exact.capacities[-1]), widest, 2.0)
    axes.set_xlim(1, blocks**1.04)
    axes.xaxis.set_major_locator(LogLocator(10, (1.0, 2.0, 5.0) if blocks < 500 else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
    axes.xaxis.set_minor_locator(NullLocator())


def short_count(count: float) -> str:
    """A round number of blocks in few letters.

    >>> short_count(500), short_count(20_000), short_count(1e6)
    ('500', '20k', '1M')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:g}{letter}"
    return f"{count:g}"


def points_apart(capacities: np.ndarray, low: float, high: float, most: int = 2000) -> np.ndarray:
    """Indices of capacities in [low, high], as many as can be told apart on a logarithmic axis: the curve of
    a large trace has a point per block.
    """
    keep = np.flatnonzero((capacities >= low) & (capacities <= high))
    if len(keep) > most:
        keep = keep[np.unique(np.geomspace(1, len(keep), most).astype(int)) - 1]
    return keep


def _miss(curve: Curve) -> tuple[list[float], list[float]]:
    """Capacities above 0 and miss ratios in %."""
    keep = points_apart(curve.capacities, 1, float(curve.capacities[-1]))
    return curve.capacities[keep].astype(float).tolist(), (100 * (1 - curve.hit_rate[keep])).tolist()


def curve_figures(results: Results) -> list[Plot]:
    """One figure, a panel per workload; none if the sweep's folder has no curves."""
    known = {name: entry for name, entry in results.curves.items() if entry.get("capacities")}
    if not known:
        return []
    points = {name: points_of(results, name, entry) for name, entry in known.items()}
    title = "Miss ratio by capacity of a single tier, a panel per workload"
    return [Plot("miss_ratio", title, _reading(known, points), lambda: _figure(known, points, title))]


def points_of(results: Results, workload: str, entry: Mapping) -> dict[str, list[tuple[int, float]]]:
    """Hit rates of policies in the scenarios of one tier, for the seed the curve was made with."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in results.rows:
        of_seed = row.get("seed") == entry.get("seed") or entry.get("seed") is None
        capacity = (
            blocks_of(results, row, int(entry["capacities"][-1]))
            if row["workload"] == workload and of_seed
            else None
        )
        if capacity:
            found.setdefault(row["policy"], []).append((capacity, row["metrics"][HIT_RATE.key]))
    return found


def blocks_of(results: Results, row: Mapping, blocks: int) -> int | None:
    """Blocks that the only tier of a row's scenario holds;

    None for several tiers, or pages made smaller, or bytes.
    """
    tiers = results.rules(row["scenario"]).get("tiers") or {}
    if (
        len(tiers) != 1
        or row.get("quantization_scheme", "fp16") != "fp16"
        or row.get("squeeze", "fp16") != "fp16"
    ):
        return None
    value = next(iter(tiers.values()))
    if isinstance(value, str):
        text = value.strip()
        value = float(text[:-1]) / 100 if text.endswith("%") else int(text) if text.isdigit() else None
    if isinstance(value, float):
        return max(round(value * blocks), 1)
    return value


def _reading(known: Mapping[str, Mapping], points: Mapping[str, Points]) -> str:
    gaps = {
        name: max(bound - lru for bound, lru in zip(entry["bound"], entry["lru"], strict=True))
        for name, entry in known.items()
    }
    widest = max(gaps, key=lambda name: gaps[name])
    where = known[widest]["capacities"][
        max(
            range(len(known[widest]["lru"])),
            key=lambda k: known[widest]["bound"][k] - known[widest]["lru"][k],
        )
    ]
    text = (
        "The line is LRU, exact at every capacity; the dashed one is what no policy can beat. LRU leaves "
        f"most on the table in {widest}: {100 * gaps[widest]:.0f} points at {where:,} blocks."
    )
    return text + (
        " Points are the other policies where the sweep has a single tier." if any(points.values()) else ""
    )


def _figure(known: Mapping[str, Mapping], points: Mapping[str, Points], title: str) -> "Figure":
    with canvas.style():
        widest = max(float(entry["capacities"][-1]) for entry in known.values())
        names = "\nor ".join(dict.fromkeys(str(entry["bound_name"]) for entry in known.values()))
        about = "across: capacity, blocks (pages counted alike) · up: accesses that miss, %"
        legend = _legend(names, any(points.values()))
        figure, grid = canvas.laid_out(
            len(known), 2.5, 1.75, Sheet(title, about, legend, left=0.45, gap=(0.42, 0.6))
        )
        for axes, (name, entry) in zip(grid, known.items(), strict=True):
            capacities = np.array(entry["capacities"])
            lru, bound = (Curve(key, capacities, np.array(entry[key]), 0) for key in ("lru", "bound"))
            draw(axes, lru, bound, None, entry["bound_name"], widest)
            canvas.panel_title(axes, name)
            axes.set_ylabel("")
            _scatter(axes, points[name])
    return figure


def _scatter(axes: "Axes", points: Points) -> None:
    """Grey dots for the policies, and the best at each capacity with its name."""
    from matplotlib.patheffects import withStroke

    at: dict[int, dict[str, float]] = {}
    for policy, places in points.items():
        for capacity, rate in places:
            at.setdefault(capacity, {})[policy] = rate
    for capacity, rates in at.items():
        best = best_of(rates, HIT_RATE)
        tied = len(best) == len(rates)
        others = [100 * (1 - rate) for name, rate in rates.items() if tied or name not in best]
        axes.plot([capacity] * len(others), others, "o", color=GREY, markersize=2.8, zorder=4)
        if not tied:
            y = 100 * (1 - rates[best[0]])
            axes.plot([capacity], [y], "D", color=BLUE, markersize=4, zorder=5)
            name = best[0] if len(best) == 1 else f"{best[0]} +{len(best) - 1}"
            text = name if 2 * len(best) <= len(rates) else f"{len(best)} of {len(rates)} tie"
            halo = [withStroke(linewidth=2, foreground="white")]
            axes.annotate(
                text,
                (capacity, y),
                (-4, -7),
                textcoords="offset points",
                fontsize=6.5,
                color=BLUE,
                ha="right",
                path_effects=halo,
                zorder=6,
            )


def _legend(bound: str, points: bool) -> list:
    from matplotlib.lines import Line2D

    drawn = [
        Line2D([], [], color=INK, label="lru (exact)"),
        Line2D([], [], color=VERMILION, linestyle=(0, (4, 2)), label=f"bound: {bound}"),
    ]
    if points:
        drawn.append(
            Line2D([], [], color=BLUE, marker="D", linestyle="none", markersize=4, label="best policy")
        )
        drawn.append(
            Line2D([], [], color=GREY, marker="o", linestyle="none", markersize=2.8, label="other policies")
        )
    return drawn

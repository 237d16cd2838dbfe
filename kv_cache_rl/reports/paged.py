"""Figures of the paged cache: throughput by block size and batch, and how full a memory is; from the numbers
of a bench.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kv_cache_rl.reports.canvas import BLUE, GREY, INK, MARKERS, ORANGE, SERIES, VERMILION, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def throughput_figure(data: Mapping[str, Any]) -> "Figure":
    """Decoded tokens per second against block size, a line per batch, the best block size marked."""
    from matplotlib.figure import Figure

    rates = {
        int(size): {int(n): rate for n, rate in row.items()}
        for size, row in data["tokens_per_second"].items()
    }
    sizes, batches = sorted(rates), sorted(next(iter(rates.values())))
    with style():
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        axes = figure.subplots()
        for batch, colour, marker in zip(batches, SERIES, MARKERS, strict=False):
            values = [rates[size][batch] for size in sizes]
            axes.plot(range(len(sizes)), values, marker=marker, color=colour, linewidth=1.3, markersize=4)
            axes.annotate(
                f"batch {batch}",
                (len(sizes) - 1, values[-1]),
                (6, 0),
                textcoords="offset points",
                va="center",
                color=colour,
            )
        best = sizes.index(data["best_block"])
        right = best > len(sizes) / 2
        axes.axvline(best, color=GREY, linewidth=0.8, linestyle=":", zorder=0)
        axes.annotate(
            f"best block size: {sizes[best]}",
            (best, 0.02),
            (-4 if right else 4, 0),
            ("data", "axes fraction"),
            "offset points",
            ha="right" if right else "left",
            color=INK,
        )
        axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
        axes.set(xlabel="block size, tokens", ylabel="decoded tokens per CPU second", ylim=(0, None))
        axes.set_title(f"Decoding throughput of the shipped model, context {data['context']} tokens")
        axes.margins(x=0.08)
    return figure


def fragmentation_figure(data: Mapping[str, Any]) -> "Figure":
    """What fills a memory that requests wait for: tokens, reservations beyond them, gaps of no use."""
    from matplotlib.figure import Figure

    paged = {
        f"paged, block {size}": row
        for size, row in sorted(data["paged"].items(), key=lambda item: int(item[0]))
    }
    rows = {**paged, **data["reserved"]}
    names = list(rows)[::-1]
    parts = (
        ("tokens", BLUE, "tokens"),
        ("internal", ORANGE, "reserved or block tail"),
        ("external", VERMILION, "gaps too short"),
    )
    with style():
        figure = Figure(figsize=(6.4, 0.9 + 0.27 * len(names)), layout="constrained")
        axes, left = figure.subplots(), [0.0] * len(names)
        for key, colour, label in parts:
            widths = [100 * rows[name][key] for name in names]
            axes.barh(range(len(names)), widths, left=left, color=colour, height=0.68, label=label)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        for at, name in enumerate(names):
            text = f"{100 * rows[name]['tokens']:.0f} %, {rows[name]['at_once']:.0f} requests"
            axes.annotate(text, (1.5, at), va="center", color="white", fontsize=7, fontweight="bold")
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel="share of the memory, %; white: free", xlim=(0, 100))
        axes.grid(visible=False, axis="y")
        axes.set_title("What a memory of 16,384 tokens holds while requests wait for it", loc="left", x=0)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure

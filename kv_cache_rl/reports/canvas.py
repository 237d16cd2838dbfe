"""Paper and ink: the style of all figures, rows of dots with intervals, labels that do not overlap, files of
the same bytes.
"""

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kv_cache_rl.extras import need
from kv_cache_rl.files import part_of
from kv_cache_rl.intervals import Interval

need("drawing figures", "matplotlib")

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI, COLOURS = 150, 128
# Source: Okabe and Ito, "Color universal design", 2008; told apart under the common colour-vision
# deficiencies.
BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
INK, GREY, PALE = "#1a1a1a", "#8a8a8a", "#e4e4e4"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION)
MARKERS = ("o", "s", "^", "D", "v", "P")
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "figure.titlesize": 10.5,
    "figure.titleweight": "bold",
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 2.5,
    "ytick.major.size": 0,
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "svg.hashsalt": "kv-cache-rl",
}
COLUMNS = 4


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure that can be drawn, and what there is to see in it."""

    name: str
    """Of its file, without ending."""
    title: str
    reading: str
    draw: Callable[[], "Figure"]
    group: str = ""
    """The scenario it is about; "": all of them."""


@contextmanager
def style() -> Iterator[None]:
    """Figures drawn inside look the same whatever the user's matplotlibrc says."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def save(figure: "Figure", path: str | Path) -> Path:
    """Writes a figure as PNG, SVG or PDF by the file's ending, without date or version: the same figure gives
    the same bytes. The file appears whole or not at all.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.suffix.lstrip(".").lower()
    metadata = {"svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None, "Producer": None}}
    with style(), part_of(path) as part:
        if kind == "png":
            _save_png(figure, part)
        else:
            figure.savefig(part, format=kind, metadata=metadata.get(kind))
    return path


def _save_png(figure: "Figure", path: Path) -> None:
    """In 128 colours, which is a third of the bytes and looks the same."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.frombuffer(
        "RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba()), "raw", "RGBA", 0, 1
    ).convert("RGB")
    picture.quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        path, "png", dpi=(DPI, DPI)
    )


@dataclass(frozen=True, slots=True)
class Sheet:
    """What surrounds the panels of a figure, in inches where it is a length."""

    title: str
    about: str
    """Under the title: what the axes are, what the bars are."""
    legend: Sequence[Any] = ()
    """Handles."""
    left: float = 0.6
    right: float = 0.15
    gap: tuple[float, float] = (0.25, 0.62)
    columns: int = COLUMNS
    below: float = 0.32
    """Room under the lowest panels."""


def looks(count: int) -> list[dict[str, Any]]:
    """Colours and markers of so many series beside the base and the bound, all different up to 24."""
    colours = (BLUE, GREEN, PURPLE, SKY)
    return [
        {"color": colours[k % 4], "marker": MARKERS[(k + k // 4) % len(MARKERS)], "markersize": 3.5}
        for k in range(count)
    ]


def width_of(names: Sequence[str], size: float = 7.5) -> float:
    """Inches that the longest of some names takes in print, about."""
    return max((len(line) for name in names for line in str(name).split("\n")), default=0) * 0.0083 * size


def laid_out(panels: int, width: float, height: float, sheet: Sheet) -> "tuple[Figure, list[Axes]]":
    """A figure with so many axes of this size in inches, with title and legend.

    Laid out by hand: no search, no surprises.
    """
    from matplotlib.figure import Figure

    across = min(sheet.columns, panels)
    down = -(-panels // across)
    wide = max(sheet.left + across * width + (across - 1) * sheet.gap[0] + sheet.right, 6.4)
    title = textwrap.wrap(sheet.title, int(wide / 0.094))
    about = textwrap.wrap(sheet.about, int(wide / 0.063))
    top = 0.1 + 0.19 * len(title) + 0.15 * len(about) + 0.34
    names = [str(handle.get_label()) for handle in sheet.legend]
    columns = min(max(int((wide - 0.2) / (width_of(names) + 0.55)), 1), max(len(names), 1))
    lines = max((name.count("\n") + 1 for name in names), default=0)
    bottom = sheet.below + 0.17 * lines * -(-len(names) // columns) + 0.08
    tall = top + down * height + (down - 1) * sheet.gap[1] + bottom
    figure = Figure((wide, tall))
    figure.text(
        0.1 / wide,
        1 - 0.1 / tall,
        "\n".join(title),
        va="top",
        fontsize=10.5,
        fontweight="bold",
        linespacing=1.25,
    )
    under = 1 - (0.13 + 0.19 * len(title)) / tall
    figure.text(0.1 / wide, under, "\n".join(about), va="top", fontsize=8, color="#444444", linespacing=1.3)
    if names:
        figure.legend(
            handles=list(sheet.legend),
            loc="lower left",
            bbox_to_anchor=(0.02 / wide, 0.02 / tall),
            ncols=columns,
        )
    places = []
    for k in range(panels):
        x = sheet.left + k % across * (width + sheet.gap[0])
        y = tall - top - (k // across + 1) * height - k // across * sheet.gap[1]
        places.append(figure.add_axes((x / wide, y / tall, width / wide, height / tall)))
    return figure, places


def panel_title(axes: "Axes", text: str) -> None:
    """Names a panel in letters as small as it takes, cut if they would be too small."""
    room = axes.bbox.width / DPI * 1.06
    size = min(8.5, room / (0.0098 * max(len(text), 1)))
    if size < 6.0:
        text, size = text[: int(room / 0.0588) - 1] + "…", 6.0
    axes.set_title(text, fontsize=size)


def dots(
    axes: "Axes",
    order: Sequence[str],
    means: Mapping[str, Interval],
    best: Sequence[str],
    base: str,
    names: bool,
) -> None:
    """A dot per policy at its mean, with its interval; the best and the base stand out."""
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_yticks(range(len(order)), order if names else [""] * len(order))
    axes.grid(visible=True, axis="y", color=PALE, linewidth=0.5)
    for role, colour, marker, size in (
        ("other", GREY, "o", 3.6),
        ("base", INK, "s", 4.2),
        ("best", BLUE, "D", 4.6),
    ):
        mine = [name for name in order if name in means and _role(name, best, base) == role]
        if not mine:
            continue
        x = [means[name].mean for name in mine]
        low = [means[name].mean - _or(means[name].low, means[name].mean) for name in mine]
        high = [_or(means[name].high, means[name].mean) - means[name].mean for name in mine]
        y = [order.index(name) for name in mine]
        axes.errorbar(
            x,
            y,
            xerr=(low, high),
            fmt=marker,
            color=colour,
            markersize=size,
            elinewidth=1.0,
            zorder=3,
            label=role,
        )


def _role(name: str, best: Sequence[str], base: str) -> str:
    return "best" if name in best else "base" if name == base else "other"


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def span(
    axes: "Axes", centres: Sequence[float], ends: Sequence[float], least: float, bottom: float, top: float
) -> None:
    """Limits of the x axis: all centres, and the ends of bars unless they are farther off than the centres
    lie apart.

    Never narrower than `least`, so that nothing is told apart that is not, nor beyond `bottom` and `top`.
    """
    low, high = min(centres), max(centres)
    apart = max(high - low, least)
    low, high = max(min([low, *ends]), low - apart, bottom), min(max([high, *ends]), high + apart, top)
    middle, half = (low + high) / 2, max((high - low) / 2, least / 2)
    margin = 0.06 * half
    axes.set_xlim(max(middle - half, bottom) - margin, min(middle + half, top) + margin)


def note(axes: "Axes", text: str) -> None:
    """A remark inside a panel."""
    box = {"facecolor": "white", "edgecolor": PALE, "boxstyle": "round,pad=0.35"}
    axes.text(
        0.5,
        0.5,
        text,
        transform=axes.transAxes,
        ha="center",
        va="center",
        fontsize=8,
        color=INK,
        bbox=box,
        zorder=5,
    )


def margin_labels(axes: "Axes", points: Mapping[str, tuple[float, float]], apart: float = 0.07) -> None:
    """Names of points at the right of the axes, each on a line to its point, none over another."""
    low, high = axes.get_ylim()
    share = {name: (y - low) / (high - low) for name, (_, y) in points.items()}
    names = sorted(points, key=lambda name: (share[name], name))
    places = [share[name] for name in names]
    for k in range(1, len(places)):
        places[k] = max(places[k], places[k - 1] + apart)
    shift = max(places[-1] - 1.0, 0.0) if places else 0.0
    for k in range(len(places) - 1, -1, -1):
        ceiling = places[k + 1] - apart if k + 1 < len(places) else 1.0
        places[k] = min(places[k], ceiling) if shift else places[k]
    for name, place in zip(names, places, strict=True):
        axes.annotate(
            name,
            points[name],
            xytext=(1.04, place),
            textcoords="axes fraction",
            fontsize=7,
            va="center",
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2},
            annotation_clip=False,
        )

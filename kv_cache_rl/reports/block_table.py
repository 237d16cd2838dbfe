"""Pictures of block tables: which physical block holds which tokens, for the terminal and as a figure.

A stage is a mapping with title, note, block_tokens, references (of each physical block), kept (free
blocks that a later prompt can find), and rows: name, place (gpu, host or gone), blocks, and text
and filled (the text and the number of tokens in each block).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kv_cache_rl.reports.tables import plain_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.console import RenderableType

LINES = 3
"""Rows of boxes beside each other: sequences on the left, lines of the pool on the right."""
EMPTY = "_"
"""A slot without a token."""
WHERE = {"gpu": "", "host": " (host)", "gone": " (done)"}
LONGEST, ACROSS = 8, 16
"""Characters of a block's text, and physical blocks side by side, that a terminal shows."""
KEPT = "kept"
"""State of a free block with contents that a later prompt can find."""


def shown(text: str) -> str:
    """A block's text with its blanks to be seen.

    >>> shown("to a\\n")
    'to·a↵'
    """
    return "".join({" ": "·", "\n": "↵"}.get(c, c if c.isprintable() else "?") for c in text)


def contents(stage: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    """The text in each block of a table, and how much of it is empty."""
    size, found = stage["block_tokens"], []
    for text, filled in zip(row["text"], row["filled"], strict=True):
        cut = shown(text[:LONGEST]) + ("…" if len(text) > LONGEST else "")
        marks = EMPTY * (size - filled) if size <= LONGEST else f" {filled}/{size}" * (filled < size)
        found.append(cut + marks)
    return found


def state(stage: Mapping[str, Any], block: int) -> str:
    """A block's references, "kept" or "free"."""
    return str(stage["references"][block] or (KEPT if block in stage["kept"] else "free"))


def tables(stage: Mapping[str, Any]) -> "Iterator[RenderableType]":
    """A stage for the terminal: the table of each sequence, then every physical block."""
    from rich.text import Text

    longest = max((len(row["blocks"]) for row in stage["rows"]), default=0)
    table = plain_table("", {"logical block": "left"} | {str(at): "left" for at in range(longest)})
    for row in stage["rows"]:
        cells = [Text(f"{row['name']}{WHERE[row['place']]}")]
        for block, text in zip(row["blocks"], contents(stage, row), strict=True):
            shared = row["place"] == "gpu" and stage["references"][block] > 1
            mark = "h" if row["place"] == "host" else "b"
            cells.append(Text(f"{mark}{block} {text}", style="bold" if shared else ""))
        table.add_row(*cells)
    yield table
    numbers = range(len(stage["references"]))
    for first in range(0, len(numbers), ACROSS):
        part = numbers[first : first + ACROSS]
        pool = plain_table("", {"physical block": "left"} | {f"b{block}": "left" for block in part})
        pool.add_row("references", *(state(stage, block) for block in part))
        yield pool


def block_table_figure(stages: Sequence[Mapping[str, Any]]) -> "Figure":
    """All stages below each other: block tables on the left, the pool on the right.

    The columns of a table are logical blocks. The number in a box is that of the physical block.
    """
    from matplotlib.figure import Figure

    from kv_cache_rl.reports.canvas import style

    with style():
        longest = max(len(row["blocks"]) for stage in stages for row in stage["rows"])
        pool = max(len(stage["references"]) for stage in stages)
        widths = (longest + 1.6, -(-pool // LINES) + 0.6)
        size = (max(0.85 * sum(widths), 7.0), 1.28 * len(stages) + 0.5)
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle("Block tables (left) and the pool of physical blocks (right)", x=0.01, ha="left")
        grid = figure.subplots(len(stages), 2, squeeze=False, width_ratios=widths)
        for number, (stage, (left, right)) in enumerate(zip(stages, grid, strict=True), 1):
            left.set_title(f"{number}. {stage['title']}: {stage['note']}")
            _draw_tables(left, stage, longest)
            _draw_pool(right, stage)
        figure.legend(handles=_legend(), loc="outside lower center", ncols=5)
    return figure


def _box(axes: "Axes", x: float, y: float, colour: str, lines: Sequence[str], ink: str = "white") -> None:
    from matplotlib.patches import Rectangle

    from kv_cache_rl.reports.canvas import GREY

    axes.add_patch(Rectangle((x, y), 0.94, 0.86, facecolor=colour, edgecolor=GREY, linewidth=0.6))
    axes.annotate(
        "\n".join(lines), (x + 0.47, y + 0.43), ha="center", va="center", color=ink, fontsize=6.5,
        family="DejaVu Sans Mono", linespacing=1.15,
    )  # fmt: skip


def _legend() -> list[Any]:
    from matplotlib.patches import Patch

    from kv_cache_rl.reports.canvas import BLUE, GREY, PALE, PURPLE, VERMILION

    labels = {
        "in several tables": VERMILION, "in one table": BLUE, "a copy in host memory": PURPLE,
        "free, kept for a later prompt": PALE, "free": "white",
    }  # fmt: skip
    return [Patch(facecolor=fill, edgecolor=GREY, label=label) for label, fill in labels.items()]


def _colour(stage: Mapping[str, Any], block: int) -> tuple[str, str]:
    """(fill, ink) of a physical block: shared, held by one table, kept, or free."""
    from kv_cache_rl.reports.canvas import BLUE, INK, PALE, VERMILION

    held = stage["references"][block]
    if held:
        return (VERMILION if held > 1 else BLUE), "white"
    return (PALE, INK) if block in stage["kept"] else ("white", INK)


def _draw_tables(axes: "Axes", stage: Mapping[str, Any], longest: int) -> None:
    from kv_cache_rl.reports.canvas import INK, PURPLE

    top = max(len(stage["rows"]), LINES) - 1
    for line, row in enumerate(stage["rows"]):
        name = f"{row['name']}{WHERE[row['place']].replace(' (', chr(10) + '(')}"
        axes.annotate(name, (-0.1, top - line + 0.43), ha="right", va="center", color=INK)
        host = row["place"] == "host"
        for at, (block, text) in enumerate(zip(row["blocks"], contents(stage, row), strict=True)):
            fill, ink = (PURPLE, "white") if host else _colour(stage, block)
            _box(axes, at, top - line, fill, [f"{'host' if host else 'block'} {block}", text], ink)
    axes.set(xlim=(-1.6, longest), ylim=(-0.1, top + 1))
    axes.axis("off")


def _draw_pool(axes: "Axes", stage: Mapping[str, Any]) -> None:
    across = -(-len(stage["references"]) // LINES)
    for block, held in enumerate(stage["references"]):
        words = f"refs {held}" if held else state(stage, block)
        lines, y = [f"block {block}", words], LINES - 1 - block // across
        fill, ink = _colour(stage, block)
        _box(axes, block % across, y, fill, lines, ink)
    axes.set(xlim=(-0.6, across), ylim=(-0.1, LINES))
    axes.axis("off")

"""Tables of all reports, in one style: for the terminal, and as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


def plain_table(title: str, columns: Mapping[str, str], caption: "str | Text | None" = None) -> "Table":
    """An empty table for the terminal; `columns` maps headings to left or right.

    Numbers, which stand right, are never wrapped.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.box, table.pad_edge, table.padding = SIMPLE_HEAD, False, (0, 1)
    for heading, justify in columns.items():
        table.add_column(
            heading, justify="right" if justify == "right" else "left", no_wrap=justify == "right"
        )
    return table


def markdown_table(columns: Mapping[str, str], rows: Iterable[Sequence[str]]) -> str:
    """The rows as a Markdown table; `columns` maps headings to left or right.

    >>> print(markdown_table({"policy": "left", "score": "right"}, [["lru", "0.5"]]), end="")
    | policy | score |
    |---|---:|
    | lru | 0.5 |
    """
    rule = "".join("---:|" if justify == "right" else "---|" for justify in columns.values())
    lines = ["| " + " | ".join(columns) + " |", "|" + rule]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"

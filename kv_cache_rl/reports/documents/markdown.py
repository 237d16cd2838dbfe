"""Numbers and means as text, and tables of them with names on the left and numbers on the right."""

from collections.abc import Iterable, Sequence

from kv_cache_rl.reports.tables import markdown_table


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is left-aligned, the others right-aligned."""
    columns = {head: "right" if at else "left" for at, head in enumerate(heads)}
    return markdown_table(columns, rows).rstrip("\n")


def number(value: float) -> str:
    """Three digits, or a whole number with commas from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def spread(mean: dict, form: str, factor: float = 1.0) -> str:
    """``mean ± half width`` of a mean in the JSON of a command; the mean alone without an interval."""
    text = form.format(factor * mean["mean"])
    if mean["high"] is None:
        return text
    return f"{text} ± {form.format(factor * (mean['high'] - mean['mean'])).lstrip('+')}"

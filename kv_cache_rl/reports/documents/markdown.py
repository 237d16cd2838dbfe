"""Markdown pieces that the tables share."""

from collections.abc import Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is left-aligned, the others right-aligned."""
    lines = [_line(heads), "|---|" + "---:|" * (len(heads) - 1), *(_line(row) for row in rows)]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def number(value: float) -> str:
    """Three digits, or a whole number with commas from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def spread(mean: dict, form: str, factor: float = 1.0) -> str:
    """``mean ± half width`` of a mean in the JSON of a command; the mean alone without an interval."""
    text = form.format(factor * mean["mean"])
    if mean["high"] is None:
        return text
    return f"{text} ± {form.format(factor * (mean['high'] - mean['mean'])).lstrip('+')}"

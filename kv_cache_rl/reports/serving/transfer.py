"""Agents where they were not trained: a row for each world and agent, beside the controller."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kv_cache_rl.intervals import paired_difference
from kv_cache_rl.reports.serving.tables import mean_of, scores
from kv_cache_rl.reports.tables import markdown_table, plain_table

if TYPE_CHECKING:
    from rich.table import Table

AGAINST = "stability"


def rows_of(parts: Mapping[str, Sequence[dict]]) -> list[dict]:
    """World → its episodes, as rows: world, agent, score, and the paired difference to `stability`."""
    found = []
    for world, episodes in parts.items():
        theirs = scores(one for one in episodes if one["agent"] == AGAINST)
        for agent in dict.fromkeys(one["agent"] for one in episodes):
            mine = scores(one for one in episodes if one["agent"] == agent)
            score = mean_of(mine.values())
            against = paired_difference(mine, theirs) if agent != AGAINST else None
            found.append(
                {
                    "world": world,
                    "agent": agent,
                    "score": score.to_json() if score else None,
                    f"minus_{AGAINST}": against.to_json() if against else None,
                }
            )
    return found


def _text(mean: Mapping | None, form: str) -> str:
    if mean is None:
        return "-"
    half = "" if mean["high"] is None else f" ± {mean['high'] - mean['mean']:.3f}"
    return f"{mean['mean']:{form}}{half}"


def _cells(row: Mapping) -> tuple[str, str]:
    return _text(row["score"], ".3f"), _text(row[f"minus_{AGAINST}"], "+.3f")


def rich_table(rows: Sequence[Mapping], title: str) -> "Table":
    """The rows, a rule between worlds."""
    columns = {"world": "left", "agent": "left", "score": "right", f"minus {AGAINST}": "right"}
    table = plain_table(title, columns, "± is the 95 % t interval over seeds")
    for k, row in enumerate(rows):
        last = k + 1 == len(rows) or rows[k + 1]["world"] != row["world"]
        table.add_row(row["world"], row["agent"], *_cells(row), end_section=last)
    return table


def markdown(rows: Sequence[Mapping]) -> str:
    """Worlds x agents: score · difference."""
    worlds = list(dict.fromkeys(row["world"] for row in rows))
    cells = {(row["world"], row["agent"]): " · ".join(_cells(row)) for row in rows}
    heads = ["agent", *(f"{world}: score · minus {AGAINST}" for world in worlds)]
    agents = dict.fromkeys(row["agent"] for row in rows)
    lines = [[f"`{agent}`", *(cells.get((world, agent), "-") for world in worlds)] for agent in agents]
    return markdown_table({heads[0]: "left"} | dict.fromkeys(heads[1:], "right"), lines)

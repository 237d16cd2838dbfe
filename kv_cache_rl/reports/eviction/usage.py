"""What a rollout costs: the tokens that the server reports, and money at the prices of a million."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kv_cache_rl.reports.eviction.outcome import Outcome
from kv_cache_rl.reports.tables import plain_table

if TYPE_CHECKING:
    from rich.table import Table

MILLION = 1_000_000
HEADINGS = {"model": "left"} | dict.fromkeys(("rollouts", "read", "of it cached", "written"), "right")
PRICED = HEADINGS | dict.fromkeys(("a rollout", "in all"), "right")


def cost(read: float, cached: float, written: float, prices: Mapping[str, float]) -> float:
    """Money for tokens; `prices` are those of a million read (`in`), written (`out`) and cached tokens.

    >>> cost(2_000_000, 1_000_000, 500_000, {"in": 1.0, "out": 4.0, "cached": 0.1})
    3.1
    """
    paid = (read - cached) * prices["in"] + cached * prices["cached"] + written * prices["out"]
    return paid / MILLION


def usage_rows(
    outcomes: Sequence[Outcome], models: Sequence[str], prices: Mapping[str, float] | None
) -> list[dict]:
    """Per model the mean tokens of a rollout, failed ones included, for they are paid too.

    With prices also `cost`, of a rollout, and `cost_in_all`. None stands where the server reports no tokens.
    """
    rows = []
    for model in models:
        mine = [outcome for outcome in outcomes if outcome.model == model]
        read, cached, written = (
            sum(getattr(outcome, name) for outcome in mine)
            for name in ("prompt_tokens", "cached_tokens", "completion_tokens")
        )
        told = bool(read or written)
        row: dict = {"model": model, "rollouts": len(mine)}
        means = {"read": read, "cached": cached, "written": written}
        row |= {name: total / len(mine) if told else None for name, total in means.items()}
        if prices:
            in_all = cost(read, cached, written, prices) if told else None
            row |= {"cost": in_all / len(mine) if in_all is not None else None, "cost_in_all": in_all}
        rows.append(row)
    return rows


def usage_table(rows: Sequence[Mapping]) -> "Table":
    """The rows for the terminal."""
    priced = any("cost" in row for row in rows)
    caption = "means over rollouts, as the server reports them"
    if priced:
        caption += "; money in the currency of the prices"
    table = plain_table("tokens per rollout", PRICED if priced else HEADINGS, caption)
    for row in rows:
        tokens = [_told(row[name], ",.0f") for name in ("read", "cached", "written")]
        money = [_told(row[name], ",.4f") for name in ("cost", "cost_in_all")] if priced else []
        table.add_row(row["model"], str(row["rollouts"]), *tokens, *money)
    return table


def _told(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)

"""Policies inside an engine beside the lab: the table, and what is said of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from kv_cache_rl.reports.engine import share
from kv_cache_rl.reports.tables import plain_table

COLUMNS = {
    "policy": "left",
    "requests equal": "right",
    "vLLM": "right",
    "lab": "right",
    "replay": "right",
}


def cells(row: Mapping[str, Any]) -> list[str]:
    """The cells of a policy, a row of `engine policies --json`."""
    rates = [f"{100 * row[name]:.2f} %" for name in ("engine_rate", "lab_rate", "replay_rate")]
    return [row["policy"], f"{row['equal']:,} of {row['requests']:,}", *rates]


def table(found: Mapping[str, Any]) -> Any:
    """All policies, the one that finds most in the engine first."""
    title = f"{found['trace']}: {found['blocks']:,} blocks ({share(found):.0f} %) of {found['engine']}"
    caption = "hit rates; lab: the prediction over vLLM's pool, replay: hierarchy replay"
    made = plain_table(title, COLUMNS, caption)
    for row in sorted(found["rows"], key=lambda row: -row["engine_rate"]):
        made.add_row(*cells(row))
    return made


def said(found: Mapping[str, Any]) -> list[str]:
    """Which policy finds most, whether a replay has the same order, and the first requests that differ."""
    rows = found["rows"]
    lines = [found["verdict"]]
    if len(rows) > 1:
        same = "the same" if same_order(rows, "replay_rate") else "not the same"
        lines.append(f"a replay of the lab has {same} order of policies")
    for row in rows:
        first = row["first"]
        if first is not None:
            lines.append(
                f"{row['policy']}: request {first['request']} is the first that differs, vLLM found "
                f"{first['engine']} blocks and the lab {first['lab']}"
            )
    return lines


def same_order(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether the policies stand in the same order by another rate as by what the engine found."""
    return all(
        (one["engine_rate"] - two["engine_rate"]) * (one[name] - two[name]) > 0
        or one["engine_rate"] == two["engine_rate"]
        for at, one in enumerate(rows)
        for two in rows[:at]
    )


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Which policy found most in the engine, and by how much more than LRU; without LRU only the first."""
    best = max(rows, key=lambda row: row["engine_rate"])
    lru = next((row for row in rows if row["policy"] == "lru"), None)
    found = f"{100 * best['engine_rate']:.2f} %"
    if lru is None:
        return f"{best['policy']} finds most, {found}"
    if best["engine_rate"] <= lru["engine_rate"]:
        return f"no policy beats lru, which finds {100 * lru['engine_rate']:.2f} %"
    points = 100 * (best["engine_rate"] - lru["engine_rate"])
    return (
        f"{best['policy']} beats lru by {points:.2f} points: {found} against {100 * lru['engine_rate']:.2f} %"
    )

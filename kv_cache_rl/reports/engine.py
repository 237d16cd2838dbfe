"""The lab beside a real engine: the table, and what is said of each recording."""

from collections.abc import Mapping, Sequence
from typing import Any

from kv_cache_rl.reports.tables import plain_table

COLUMNS = {
    "recording": "left",
    "pool": "right",
    "at once": "right",
    "the lab": "left",
    "requests equal": "right",
    "vLLM": "right",
    "lab": "right",
    "points": "right",
}


def share(of: Mapping[str, Any]) -> float:
    """Per cent of the working set that a pool holds, without the null block and an open one."""
    return 100 * (of["blocks"] - 2) / of["working_set"]


def cells(row: Mapping[str, Any]) -> list[str]:
    """The cells of a comparison, a row of `engine compare --json`."""
    config = row["config"]
    return [
        config["trace"],
        f"{config['blocks']:,} ({share(config):.0f} %)",
        f"{config['max_num_seqs']}",
        row["order"],
        f"{row['equal']:,} of {row['starts']:,}",
        f"{100 * row['engine_rate']:.2f} %",
        f"{100 * row['lab_rate']:.2f} %",
        f"{row['points']:+.2f}" if row["equal"] < row["starts"] else "0",
    ]


def said(row: Mapping[str, Any]) -> list[str]:
    """The sentences below the table: how many are equal, the first difference, the causes."""
    starts = "requests" if row["starts"] == row["requests"] else "starts"
    lines = [f"{row['recording']}, {row['order']}: {row['equal']:,} of {row['starts']:,} {starts} equal"]
    held = row["held"]
    lines[0] += (
        f"; at the end vLLM holds {held['engine']:,} blocks, the lab {held['lab']:,}, both {held['both']:,}"
    )
    first = row["first"]
    if first is not None:
        block = f"block {first['block']} (number {first['depth']} of the prompt)"
        lines.append(
            f"  first: request {first['request']} in step {first['step']}, vLLM found {first['engine']} "
            f"blocks and the lab {first['lab']}; {block}: "
            f"{_engine_side(first)}, the lab {'held it' if first['lab_held'] else 'did not hold it'}; "
            f"{first['cause']}"
        )
    lines += [f"  {count:,} x {cause}" for cause, count in row["causes"].items()]
    return lines


def _engine_side(first: Mapping[str, Any]) -> str:
    if first["engine_held"]:
        return "vLLM held it"
    removed = first["removed_in_step"]
    return "vLLM had not stored it" if removed is None else f"vLLM had removed it in step {removed}"


def table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """The comparisons as a table for the terminal."""
    engines = ", ".join(dict.fromkeys(row["config"]["engine"] for row in rows))
    caption = "pool: blocks of the engine, and their share of all different blocks that were asked for"
    found = plain_table(f"the lab beside {engines}", COLUMNS, caption)
    for row in rows:
        found.add_row(*cells(row))
    return found

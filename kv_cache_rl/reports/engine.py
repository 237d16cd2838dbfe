"""The lab beside a real engine: the tables, and what is said of each recording."""

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


STEPS = {
    "recording": "left",
    "pool": "right",
    "at once": "right",
    "tokens a step": "right",
    "rules": "left",
    "preemptions": "right",
    "steps equal": "right",
}


def rules(config: Mapping[str, Any]) -> str:
    """What a recording's engine was told beside pool, requests at once and tokens of a step."""
    found = [] if config["prefix_caching"] else ["no prefix caching"]
    if config["long_prefill"]:
        found.append(f"{config['long_prefill']} tokens of a prompt")
    if config["watermark"]:
        found.append(f"{100 * config['watermark']:g} % kept free")
    return ", ".join(found) or "-"


def step_cells(row: Mapping[str, Any]) -> list[str]:
    """The cells of a recording beside the serving world, one of the steps of `engine compare --json`."""
    config, compared = row["config"], row["not_compared"] is None
    return [
        config["trace"],
        f"{config['blocks']:,} ({share(config):.0f} %)",
        f"{config['max_num_seqs']}",
        f"{config['token_budget']:,}",
        rules(config),
        f"{row['preempted']:,}" if compared else "-",
        f"{row['equal']:,} of {row['steps']:,}" if compared else "not compared",
    ]


def steps_table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """The recordings beside the serving world as a table for the terminal."""
    engines = ", ".join(dict.fromkeys(row["config"]["engine"] for row in rows))
    caption = "equal: as many requests run and wait, as many blocks are free, and as many were preempted"
    found = plain_table(f"the serving world under vLLM's rules beside {engines}", STEPS, caption)
    for row in rows:
        found.add_row(*step_cells(row))
    return found


def said_of_steps(row: Mapping[str, Any]) -> list[str]:
    """The sentences below that table: how many steps are equal, and where the schedules part."""
    if row["not_compared"] is not None:
        return [f"{row['recording']}: steps are not compared: {row['not_compared']}"]
    lines = [f"{row['recording']}: {row['equal']:,} of {row['steps']:,} steps equal"]
    if (first := row["first"]) is None:
        return lines
    sides = [_counted(first["engine"]), _counted(first["world"])]
    lines.append(f"  first: step {first['step']}, vLLM {sides[0]}; the serving world {sides[1]}")
    if first["request"] is not None:
        held = [_holding(first[side]) for side in ("engine_held", "world_held")]
        lines.append(f"  request {first['request']}: in vLLM it {held[0]}, in the serving world it {held[1]}")
    lines.append(f"  {first['why']}")
    return lines


def _counted(counts: Mapping[str, int] | None) -> str:
    if counts is None:
        return "took no such step"
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _holding(held: Mapping[str, Any]) -> str:
    if held["state"] != "runs":
        return str(held["state"])
    return f"runs with {held['blocks']:,} blocks, {held['found']:,} found at its start"

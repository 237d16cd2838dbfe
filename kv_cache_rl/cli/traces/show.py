"""``traces show``: format, counts and span of a trace file, and which commands can use it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_cache_rl.cli.options import AsJson
from kv_cache_rl.cli.terminal import console, print_json

if TYPE_CHECKING:
    from kv_cache_rl.traces.summary import Summary

TraceFile = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="A trace file of any format, or a folder of Claude Code sessions."),
]


def run_show(trace: TraceFile, as_json: AsJson = False) -> None:
    """Say what is in a trace file: format, block size, counts, span, and what can use it.

    Example: kv-cache-rl traces show conversation_trace.jsonl
    """
    from kv_cache_rl.traces.summary import summary_of

    found = summary_of(trace)
    if as_json:
        print_json(found.to_json())
    else:
        show(found)


def show(found: "Summary") -> None:
    """Prints the facts as a table, and under it what was assumed."""
    from kv_cache_rl.reports.tables import plain_table

    out = console()
    table = plain_table(f"{found.path}: {found.format}", {"": "left", "value": "left"})
    for name, value in lines(found):
        table.add_row(name, value)
    out.print(table)
    for note in found.notes:
        out.print(note, soft_wrap=True)


def lines(found: "Summary") -> list[tuple[str, str]]:
    """Name and value of all that the file says."""
    counts = {
        "requests": found.requests,
        "sessions": found.sessions,
        "input tokens": found.input_tokens,
        "output tokens": found.output_tokens,
        "tokens in a block": found.block_size,
        "different blocks": found.blocks,
        "block accesses": found.block_accesses,
    }
    rows = [(name, f"{value:,}") for name, value in counts.items() if value is not None]
    if found.span_s is not None:
        rows.append(("span", f"{found.span_s:,.1f} s"))
    if found.rate_per_s is not None:
        rows.append(("rate", f"{found.rate_per_s:.3g} requests/s"))
    rows += [("left out", f"{count:,} {reason}") for reason, count in found.left_out.items()]
    return rows + [(command, f"no: {why}" if why else "yes") for command, why in found.uses.items()]

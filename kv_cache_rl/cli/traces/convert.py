"""``traces convert``: a trace file of any format in the project's own."""

from pathlib import Path
from typing import Annotated

import typer

from kv_cache_rl.amounts import counted
from kv_cache_rl.cli import options
from kv_cache_rl.cli.options import AsJson
from kv_cache_rl.cli.terminal import print_json, waiting
from kv_cache_rl.cli.traces.show import Format, TraceFile, formatted


def run_convert(
    trace: TraceFile,
    out: Annotated[Path, options.out("The file to write; packed if it ends in .gz, .bz2 or .xz.")],
    format: Format = None,
    as_json: AsJson = False,
) -> None:
    """Write a trace in the project's own format, its rows in order of time.

    Example: kv-cache-rl traces convert conversation_trace.jsonl --out lab.jsonl
    """
    from kv_cache_rl.sim.hierarchy.traces.convert import convert

    with waiting(f"converting {trace}", as_json):
        requests, notes = convert(formatted(trace, format), out)
    if as_json:
        print_json({"out": str(out), "requests": requests, "notes": notes})
        return
    typer.echo(f"{out}: {counted(requests, 'request')}")
    for note in notes:
        typer.echo(note)

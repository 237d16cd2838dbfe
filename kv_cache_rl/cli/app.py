"""The command tree."""

from typing import Annotated

import typer

from kv_cache_rl import ENVIRONMENT_VERSION, __version__
from kv_cache_rl.cli import hierarchy, paged, serving, stability, traces
from kv_cache_rl.cli.eviction import (
    baselines,
    bench,
    evaluate,
    export,
    landscape,
    oracle,
    replay,
    report,
    scenarios,
    serve,
)
from kv_cache_rl.cli.failures import CommandGroup
from kv_cache_rl.cli.trace_options import with_reading

app = typer.Typer(
    name="kv-cache-rl",
    cls=CommandGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A KV cache under pressure, decided by anyone, measured with the same rulers.",
    epilog="Start with: kv-cache-rl eval",
)


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kv-cache-rl {__version__} (environment version {ENVIRONMENT_VERSION})")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Print the versions and exit."),
    ] = False,
) -> None:
    """A KV cache under pressure, decided by anyone, measured with the same rulers."""


COMMANDS = {
    "eval": evaluate.run_eval,
    "baselines": baselines.run_baselines,
    "report": report.run_report,
    "replay": replay.run_replay,
    "oracle": oracle.run_oracle,
    "landscape": landscape.run_landscape,
    "export-sft": export.run_export,
    "serve-policy": serve.run_serve,
    "bench": bench.run_bench,
}
"""Command → function; the docstring is its help, the last line of it an example."""

for command_name, function in COMMANDS.items():
    app.command(command_name)(with_reading(function))
app.add_typer(scenarios.app, name="scenarios")
app.add_typer(hierarchy.app, name="hierarchy")
app.add_typer(serving.app, name="serving")
app.add_typer(stability.app, name="stability")
app.add_typer(paged.app, name="paged")
app.add_typer(traces.app, name="traces")

"""``traces``: what is in a trace file, and trace files in the project's own format."""

import typer

from kv_cache_rl.cli.trace_options import with_reading
from kv_cache_rl.cli.traces import convert, show

app = typer.Typer(
    no_args_is_help=True,
    help="Look into trace files of any format, and convert them. Formats: Claude Code sessions, "
    "Mooncake and its kin, Qwen-Bailian, Azure, BurstGPT, vidur, RAGPulse, TraceLab, ShareGPT, "
    "libCacheSim; docs/formats.md has their fields.",
)

COMMANDS = {"show": show.run_show, "convert": convert.run_convert}
"""Command → function; the docstring is its help, the last line of it an example."""

for command_name, function in COMMANDS.items():
    app.command(command_name)(with_reading(function))

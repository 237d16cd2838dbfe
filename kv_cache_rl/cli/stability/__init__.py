"""``stability``: whether a service can hold its load, by queueing theory."""

import typer

from kv_cache_rl.cli.stability import compare, plan, validate
from kv_cache_rl.cli.trace_options import with_reading

app = typer.Typer(
    no_args_is_help=True, help="Whether a service can hold its load: queueing theory of the KV cache."
)

COMMANDS = {"plan": plan.run_plan, "validate": validate.run_validate, "compare": compare.run_compare}
"""Command → function; the docstring is its help, the last line of it an example."""

for command_name, function in COMMANDS.items():
    app.command(command_name)(with_reading(function))

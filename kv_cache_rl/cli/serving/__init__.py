"""``serving``: a server under load, decided tick by tick: episodes, agents compared, speeds, training."""

import typer

from kv_cache_rl.cli.serving import bench, evaluate, simulate, train
from kv_cache_rl.cli.trace_options import with_reading

app = typer.Typer(
    no_args_is_help=True, help="Run a server under load: agents, tasks, scores, speeds, training."
)

COMMANDS = {
    "simulate": simulate.run_simulate,
    "evaluate": evaluate.run_evaluate,
    "bench": bench.run_bench,
    "train": train.run_train,
}
"""Command → function; the docstring is its help, the last line of it an example."""

for command_name, function in COMMANDS.items():
    app.command(command_name)(with_reading(function))

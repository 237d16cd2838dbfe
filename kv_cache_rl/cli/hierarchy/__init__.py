"""``hierarchy``: traces replayed through memory tiers, swept over scenarios, and compared with what is
possible.
"""

import typer

from kv_cache_rl.cli.hierarchy import bench, curves, heldout, plot, replay, reproduce, sweeps, workload
from kv_cache_rl.cli.trace_options import with_reading

app = typer.Typer(
    no_args_is_help=True, help="Replay traces through memory tiers: policies, bounds, curves, sweeps."
)

COMMANDS = {
    "replay": replay.run_replay,
    "sweep": sweeps.run_sweep_command,
    "ablation": sweeps.run_ablation,
    "heldout": heldout.run_heldout,
    "mrc": curves.run_mrc,
    "reproduce": reproduce.run_reproduce,
    "plot": plot.run_plot,
    "bench": bench.run_bench,
    "workload": workload.run_workload,
}
"""Command → function; the docstring is its help, the last line of it an example."""

for command_name, function in COMMANDS.items():
    app.command(command_name)(with_reading(function))

"""``paged``: paged attention on a real model: checks, figures, text, and the calibration of the simulators."""

import typer

from kv_cache_rl.cli.paged import bench, calibrate, demo, generate

app = typer.Typer(
    no_args_is_help=True, help="Paged attention on real tensors: demo, bench, generate, calibrate."
)

COMMANDS = {
    "demo": demo.run_demo,
    "bench": bench.run_bench,
    "generate": generate.run_generate,
    "calibrate": calibrate.run_calibrate,
}
"""Command → function; the docstring is its help, the last line of it an example."""

for command_name, function in COMMANDS.items():
    app.command(command_name)(function)

"""``hierarchy``: traces replayed through memory tiers, swept over scenarios, and compared with what is
possible.
"""

from kv_cache_rl.cli.hierarchy import bench, curves, heldout, plot, replay, reproduce, sweeps, workload

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

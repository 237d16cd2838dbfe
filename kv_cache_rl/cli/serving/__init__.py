"""``serving``: a server under load, decided tick by tick: episodes, agents compared, speeds, training."""

from kv_cache_rl.cli.serving import bench, evaluate, simulate, train, transfer

COMMANDS = {
    "simulate": simulate.run_simulate,
    "evaluate": evaluate.run_evaluate,
    "bench": bench.run_bench,
    "train": train.run_train,
    "transfer": transfer.run_transfer,
}

"""``eviction``: a policy or a chat model manages the cache of a server for 15 windows, and is scored."""

from kv_cache_rl.cli.eviction import (
    baselines,
    bench,
    evaluate,
    export,
    landscape,
    oracle,
    planner,
    replay,
    report,
    scenarios,
    serve,
    submit,
    tokens,
    train,
)

COMMANDS = {
    "eval": evaluate.run_eval,
    "baselines": baselines.run_baselines,
    "report": report.run_report,
    "replay": replay.run_replay,
    "oracle": oracle.run_oracle,
    "planner": planner.run_planner,
    "landscape": landscape.run_landscape,
    "export-sft": export.run_export,
    "serve-policy": serve.run_serve,
    "submit": submit.run_submit,
    "leaderboard": submit.app,
    "train": train.run_train,
    "tokens": tokens.run_tokens,
    "bench": bench.run_bench,
    "scenarios": scenarios.app,
}

"""``paged``: paged attention on a real model: checks, figures, text, calibration of the simulators."""

from kv_cache_rl.cli.paged import bench, calibrate, demo, generate

COMMANDS = {
    "demo": demo.run_demo,
    "bench": bench.run_bench,
    "generate": generate.run_generate,
    "calibrate": calibrate.run_calibrate,
}

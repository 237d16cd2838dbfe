"""``paged``: paged attention on a real model: checks, figures, text, pictures, calibration."""

from kv_cache_rl.cli.paged import bench, calibrate, demo, generate, show

COMMANDS = {
    "demo": demo.run_demo,
    "bench": bench.run_bench,
    "generate": generate.run_generate,
    "show": show.run_show,
    "calibrate": calibrate.run_calibrate,
}

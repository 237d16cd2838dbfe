"""``paged``: paged attention on a real model: checks, figures, text, pictures, calibration."""

from kv_cache_rl.cli.paged import bench, calibrate, demo, generate, show
from kv_cache_rl.cli.tree import group

COMMANDS = {
    "demo": demo.run_demo,
    "bench": bench.run_bench,
    "generate": generate.run_generate,
    "show": show.run_show,
    "calibrate": calibrate.run_calibrate,
}
app = group("Paged attention on real tensors: demo, bench, generate, show, calibrate.", COMMANDS)

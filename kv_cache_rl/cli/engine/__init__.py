"""``engine``: a real engine beside the lab: recorded, compared, attached to, led by its policies."""

from kv_cache_rl.cli.engine import attach

COMMANDS = {"attach": attach.run_attach}

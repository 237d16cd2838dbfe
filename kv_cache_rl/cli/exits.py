"""The exit codes of the command line, which `kv_cache_rl.cli` explains."""

FAILED, BAD_INPUT, INTERRUPTED, TERMINATED = 1, 2, 130, 143

"""``stability``: whether a service can hold its load, by queueing theory."""

from kv_cache_rl.cli.stability import compare, plan, validate

COMMANDS = {"plan": plan.run_plan, "validate": validate.run_validate, "compare": compare.run_compare}

"""``engine``: a real vLLM beside the lab, recorded and compared request by request."""

from kv_cache_rl.cli.engine import compare, record

COMMANDS = {"record": record.run_record, "compare": compare.run_compare}

"""``engine``: a real vLLM beside the lab: recorded and compared, attached to, led by its policies."""

from kv_cache_rl.cli.engine import attach, compare, hints, offload, policies, record

COMMANDS = {
    "record": record.run_record,
    "compare": compare.run_compare,
    "attach": attach.run_attach,
    "offload": offload.run_offload,
    "policies": policies.run_policies,
    "hints": hints.run_hints,
}

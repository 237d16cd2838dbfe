"""The serving world: a server with GPU and CPU block pools, users who come back, and eighteen actions.

Reading order: `spec` (what is served, on what), `columns` (every cell of a server by name), `state`, then one
tick: `lists`, `link`, `admission`, `actions`, `engine`, `observe`, `dynamics`. What it comes to: `bound`,
`score`; what it is held to: `audit`. The load: `draws`, `arrivals`, `demand`, `generate`, and `recorded`,
`replay` for traces. Deciders in compiled form: `moves`, `heuristics`, `canaries`, `tabular`; `seeds`.

A server that schedules itself by vLLM's rules, step by step: `shared_blocks`, `vllm`, `vllm_server`.
"""

from kv_cache_rl.lazy import lazy

__all__, __getattr__ = lazy(
    __name__,
    {
        "actions": ("ACTIONS",),
        "dynamics": ("new_state",),
        "observe": ("OBSERVATION", "RICH"),
        "score": ("METRICS", "TERM_WEIGHTS", "Report", "report"),
        "spec": ("Scenario", "ServingError", "TASKS", "task"),
        "state": ("State",),
    },
)

"""The hierarchy lab: page accesses and prefix trees replayed through memory tiers under any policy.

Reading order: `spec`, `traces`, `generate`, `state`, `order`, `queues`, `crossing`, `moves`, `seconds`,
`dynamics`, `score`, `engine`; then `stack` and `curves` (LRU without the moves, bounds), `peer`
(kv-hierarchy-lab)."""

from kv_cache_rl.lazy import lazy

__all__, __getattr__ = lazy(
    __name__,
    {
        "curves.bound": ("bound_name", "min_curve", "min_hits"),
        "engine": ("Run", "run"),
        "generate": ("WORKLOADS", "workload", "zipf"),
        "traces.load": ("load_trace",),
        "peer.spec": ("laboratory",),
        "curves.runs": ("lru", "lru_curve", "stack_distances"),
        "curves.sampled": ("sampled_curve",),
        "spec": ("HierarchyError", "Scenario", "Tier", "block_bytes", "one_tier", "physical"),
        "state": ("POLICIES", "check", "new_state"),
        "traces.trace": ("Trace", "pages"),
    },
)

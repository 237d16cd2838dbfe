"""The hierarchy lab: page accesses and prefix trees replayed through memory tiers under any policy.

Reading order: `spec`, `traces`, `generate`, `state`; which page leaves: `observe`, `memory`, `queues`,
`heap`, `order`; what moves cost: `moves`, `crossing`, `seconds`; `dynamics`, `score`, `engine`, `audit`; then
`flat` and `stack` (one tier, and LRU, without the moves), `curves` (bounds) and `peer` (kv-hierarchy-lab).
"""

from kv_cache_rl.lazy import lazy

__all__, __getattr__ = lazy(
    __name__,
    {
        "curves.bound": ("bound_name", "min_curve", "min_hits"),
        "audit": ("check",),
        "dynamics": ("new_state",),
        "engine": ("run",),
        "generate": ("WORKLOADS", "workload", "zipf"),
        "traces.load": ("load_trace",),
        "peer.spec": ("laboratory",),
        "curves.runs": ("lru", "lru_curve", "stack_distances"),
        "curves.sampled": ("sampled_curve",),
        "spec": ("HierarchyError", "Scenario", "Tier", "one_tier", "physical"),
        "policies": ("POLICIES",),
        "score": ("Report",),
        "traces.trace": ("Trace", "pages"),
    },
)

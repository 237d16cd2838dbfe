"""The hierarchy lab: page accesses and prefix trees replayed through memory tiers under any policy.

Reading order: `spec`, `trace`, `load`, `generate`, `state`, `order`, `queues`, `crossing`, `moves`, `seconds`, `dynamics`,
`score`, `engine`; then `stack` and `runs` (LRU without the moves), `bound`, `sampled`; `peer*`, `reproduce`, `ablation`, `voids`
(kv-hierarchy-lab).
"""

from importlib import import_module

_HOME = {
    "bound": ("bound_name", "min_curve", "min_hits"),
    "engine": ("Run", "run"),
    "generate": ("WORKLOADS", "workload", "zipf"),
    "load": ("load_trace",),
    "peer_spec": ("laboratory",),
    "runs": ("lru", "lru_curve", "stack_distances"),
    "sampled": ("sampled_curve",),
    "spec": ("HierarchyError", "Scenario", "Tier", "block_bytes", "one_tier", "physical"),
    "state": ("POLICIES", "check", "new_state"),
    "trace": ("Trace", "pages"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_MODULE)


def __getattr__(name: str):
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE[name]}"), name)

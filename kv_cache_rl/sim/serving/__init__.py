"""The serving world: a server with GPU and CPU block pools, users who come back, and eighteen things one can
do about it.
"""

from kv_cache_rl.lazy import lazy

__all__, __getattr__ = lazy(
    __name__,
    {
        "actions": ("ACTIONS",),
        "observe": ("OBSERVATION", "RICH"),
        "score": ("TERM_WEIGHTS", "Report", "report"),
        "spec": ("Scenario", "ServingError", "TASKS", "task"),
        "state": ("State", "new_state"),
    },
)

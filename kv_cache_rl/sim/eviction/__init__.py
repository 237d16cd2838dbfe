"""The eviction environment: a 15-step episode in which someone decides what leaves a KV cache under pressure.

Reading order: `spec`, `process`, `build`, `generate`, `cut`, `state`, `dynamics`, `observe`, `score`,
`calls`, `deciders`, `episode`, `scenarios`."""

from kv_cache_rl import ENVIRONMENT_VERSION
from kv_cache_rl.lazy import lazy

_names, __getattr__ = lazy(
    __name__,
    {
        "spec": (
            "ActionLog",
            "DIFFICULTIES",
            "MAX_CALLS_PER_STEP",
            "ORACLE",
            "SPLITS",
            "STEPS",
            "Scenario",
            "ScenarioError",
        ),
        "calls": ("TOOLS", "Call", "parse_call"),
        "deciders": ("CANARIES", "DECIDERS", "FLOOR", "decider"),
        "episode": ("Episode", "Report", "play", "replay", "rollout", "text_only_reply", "tool_messages"),
        "prompt": ("SYSTEM_PROMPT",),
        "scenarios": ("load_file", "load_scenarios", "write_file"),
        "score": ("METRICS", "REWARDS", "normalized_score"),
    },
)
__all__ = [*_names, "ENVIRONMENT_VERSION"]

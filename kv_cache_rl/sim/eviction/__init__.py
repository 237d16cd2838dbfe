"""The eviction environment: a 15-step episode in which someone decides what leaves a KV cache under pressure.

Reading order: `spec`, `process`, `build`, `generate`, `cut`, `state`, `dynamics`, `observe`, `score`, `calls`, `deciders`,
`episode`, `scenarios`.
"""

from importlib import import_module

_HOME = {
    "spec": ("ActionLog", "DIFFICULTIES", "MAX_CALLS_PER_STEP", "ORACLE", "SPLITS", "STEPS", "Scenario", "ScenarioError"),
    "calls": ("TOOLS", "Call", "parse_call"),
    "deciders": ("CANARIES", "DECIDERS", "FLOOR", "decider"),
    "episode": ("Episode", "Report", "play", "replay", "rollout", "text_only_reply", "tool_messages"),
    "prompt": ("SYSTEM_PROMPT",),
    "scenarios": ("load_file", "load_scenarios", "write_file"),
    "score": ("METRICS", "REWARDS", "normalized_score"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names} | {"ENVIRONMENT_VERSION": ""}
__all__ = sorted(_MODULE)


def __getattr__(name: str):
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(f"{__name__}.{_MODULE[name]}") if _MODULE[name] else import_module("kv_cache_rl")
    return getattr(home, name)

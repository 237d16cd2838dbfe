"""The eviction environment: 15 windows in which tool calls decide what leaves a KV cache under pressure.

Reading order: `log`, `spec`, `process`, `build`, `generate`, `cut`; `columns`, `state`, `entries`, `actions`,
`admission`, `dynamics`; `observe`, `text`, `brief`, `score`; `calls`, `deciders` (with `blind`, `ranked`,
`weighing`, `returns`, `reserve`, `tuned`, `learned`); `episode`, `messages`, `prompt`, `scenarios`;
`numbers`, `decisions`."""

from kv_cache_rl import ENVIRONMENT_VERSION
from kv_cache_rl.lazy import lazy

_names, __getattr__ = lazy(
    __name__,
    {
        "spec": (
            "DIFFICULTIES",
            "HISTORIES",
            "MAX_CALLS_PER_STEP",
            "ORACLE",
            "SPLITS",
            "STEPS",
            "Scenario",
            "ScenarioError",
            "VIEWS",
        ),
        "log": ("ActionLog", "LogError"),
        "calls": ("TOOLS", "Call", "parse_call"),
        "deciders": ("CANARIES", "DECIDERS", "FLOOR", "decider"),
        "dynamics": ("new_state",),
        "episode": ("Episode", "counting", "play", "reason_of", "replay", "rollout"),
        "messages": ("text_only_reply", "tool_messages", "window_message"),
        "prompt": ("CONTEXT_TOKENS", "SYSTEM_PROMPT", "SYSTEM_PROMPTS", "system_prompt"),
        "scenarios": ("load_file", "load_scenarios", "write_file"),
        "score": ("METRICS", "REWARDS", "Report", "normalized_score"),
        "state": ("State",),
    },
)
__all__ = [*_names, "ENVIRONMENT_VERSION"]

"""The KV-cache eviction environment for verifiers v1: taskset, env, and a harness in process."""

from kv_cache_eviction.env import EvictionEnv
from kv_cache_eviction.harness import EvictionHarness
from kv_cache_eviction.runs import evaluate
from kv_cache_eviction.taskset import EvictionTaskset

__all__ = ["EvictionEnv", "EvictionHarness", "EvictionTaskset", "evaluate"]

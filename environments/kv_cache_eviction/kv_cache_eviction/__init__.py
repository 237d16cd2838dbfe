"""The KV-cache eviction environment as a verifiers v1 package: a taskset, an env, and a harness that plays in process."""

from kv_cache_eviction.env import EvictionEnv
from kv_cache_eviction.harness import EvictionHarness
from kv_cache_eviction.taskset import EvictionTaskset

__all__ = ["EvictionEnv", "EvictionHarness", "EvictionTaskset"]

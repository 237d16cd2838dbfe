"""The eviction world as an OpenEnv environment: fifteen windows, in each the calls that manage a KV cache."""

from kv_cache_eviction_openenv.client import KvCacheEvictionEnv
from kv_cache_eviction_openenv.models import (
    KvCacheEvictionAction,
    KvCacheEvictionObservation,
    KvCacheEvictionState,
)

__all__ = [
    "KvCacheEvictionAction",
    "KvCacheEvictionEnv",
    "KvCacheEvictionObservation",
    "KvCacheEvictionState",
]

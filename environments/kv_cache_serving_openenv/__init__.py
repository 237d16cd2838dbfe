"""The serving world as an OpenEnv environment: eighteen actions that run the memory of an LLM server."""

from kv_cache_serving_openenv.client import KvCacheServingEnv
from kv_cache_serving_openenv.models import (
    KvCacheServingAction,
    KvCacheServingObservation,
    KvCacheServingState,
)

__all__ = [
    "KvCacheServingAction",
    "KvCacheServingEnv",
    "KvCacheServingObservation",
    "KvCacheServingState",
]

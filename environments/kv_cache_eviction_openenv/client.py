"""The client of a running server; each one has a session of its own."""

from typing import Any

from openenv.core import EnvClient
from openenv.core.client_types import StepResult

from kv_cache_eviction_openenv.models import (
    KvCacheEvictionAction,
    KvCacheEvictionObservation,
    KvCacheEvictionState,
)


class KvCacheEvictionEnv(EnvClient[KvCacheEvictionAction, KvCacheEvictionObservation, KvCacheEvictionState]):
    """Plays episodes over a WebSocket.

    ``reset`` takes `split` and `index`, or `seed`, or `task`; and `view` (`brief` or `full`).
    """

    def _step_payload(self, action: KvCacheEvictionAction) -> dict[str, Any]:
        return action.model_dump(exclude_defaults=True)

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[KvCacheEvictionObservation]:
        told = {"done": payload["done"], "reward": payload["reward"]}
        return StepResult(observation=KvCacheEvictionObservation(**payload["observation"], **told), **told)

    def _parse_state(self, payload: dict[str, Any]) -> KvCacheEvictionState:
        return KvCacheEvictionState(**payload)

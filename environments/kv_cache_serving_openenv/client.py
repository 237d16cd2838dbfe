"""The client of a running server; each one has a session of its own."""

from typing import Any

from openenv.core import EnvClient
from openenv.core.client_types import StepResult

from kv_cache_serving_openenv.models import (
    KvCacheServingAction,
    KvCacheServingObservation,
    KvCacheServingState,
)


class KvCacheServingEnv(EnvClient[KvCacheServingAction, KvCacheServingObservation, KvCacheServingState]):
    """Plays episodes over a WebSocket.

    ``reset`` takes `split` and `index`, or `seed`, or `task`; and `view` (`numbers` or `text`) and `ticks`.
    """

    def _step_payload(self, action: KvCacheServingAction) -> dict[str, Any]:
        return action.model_dump(exclude_defaults=True)

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[KvCacheServingObservation]:
        told = {"done": payload["done"], "reward": payload["reward"]}
        return StepResult(observation=KvCacheServingObservation(**payload["observation"], **told), **told)

    def _parse_state(self, payload: dict[str, Any]) -> KvCacheServingState:
        return KvCacheServingState(**payload)

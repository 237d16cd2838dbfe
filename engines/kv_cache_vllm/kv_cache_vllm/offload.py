"""The lab's policies in vLLM's offload tier: which chunks leave the host memory.

    --kv-transfer-config '{"kv_connector": "OffloadingConnector", "kv_role": "kv_both",
      "kv_connector_extra_config": {"cpu_bytes_to_use": 8000000000,
        "eviction_policy": "s3fifo", "cache_policy_module_path": "kv_cache_vllm.offload"}}'

`eviction_policy` is any policy of the lab; vLLM keeps `lru` and `arc` for its own, so the lab's are `lab_lru`
and `lab_arc`. Chunks that are being written or read, and those of the store at hand, are spared.

Source: vLLM 0.32, v1/kv_offload/cpu/policies/base.py (CachePolicy).
"""

from collections.abc import Iterable, Sequence

from vllm.v1.kv_offload.base import OffloadKey, ReqContext
from vllm.v1.kv_offload.cpu.policies.base import CachePolicy, ChunkStatus, order_request_keys

from kv_cache_rl.core.errors import Refused, unknown
from kv_cache_rl.sim.hierarchy.live import LiveTier
from kv_cache_rl.sim.hierarchy.policies import POLICIES

PREFIX = "lab_"
"""Before the name of a policy that vLLM has too."""


class UnknownPolicy(AttributeError, Refused):
    """A policy that the lab does not have."""


class LabCachePolicy(CachePolicy):
    """A host tier whose chunks leave in the order of a policy of the lab."""

    name = "lru"

    def __init__(self, cache_capacity: int) -> None:
        super().__init__(cache_capacity)
        self._chunks: dict[OffloadKey, ChunkStatus] = {}
        self._free: set[OffloadKey] = set()
        """Chunks that are neither written nor read now."""
        self._tier = LiveTier(self.name, cache_capacity)

    def get(self, key: OffloadKey) -> ChunkStatus | None:
        """The chunk of a key."""
        return self._chunks.get(key)

    def on_store_miss(self, keys: Iterable[OffloadKey], req_context: ReqContext) -> None:
        """Chunks are about to enter: their accesses count, and queues learn from their ghosts."""
        for key in reversed(list(keys)):
            self._tier.asked(key)
            self._tier.announced(key)

    def insert(self, key: OffloadKey, chunk: ChunkStatus) -> None:
        """The chunk enters."""
        self._chunks[key] = chunk
        self._tier.entered(key)
        if chunk.ref_cnt == 0:
            self._free.add(key)

    def remove(self, key: OffloadKey) -> None:
        """The chunk goes: it could not be written."""
        del self._chunks[key]
        self._free.discard(key)
        self._tier.removed(key)

    def touch(self, keys: Iterable[OffloadKey], req_context: ReqContext) -> None:
        """Chunks are used, the last first."""
        for key in reversed(list(keys)):
            if key in self._chunks:
                self._tier.asked(key)

    def on_request_finished(
        self,
        key_groups: Sequence[Sequence[OffloadKey]],
        insertion_only_keys: set[OffloadKey],
        reused_keys: set[OffloadKey],
        req_context: ReqContext,
    ) -> None:
        """The chunks that a request reused count as used, those that it stored as newest, the last first."""
        for key in reversed(order_request_keys(key_groups, req_context)):
            if key not in self._chunks:
                continue
            if key in insertion_only_keys:
                self._tier.renewed(key)
            elif key in reused_keys:
                self._tier.asked(key)

    def evict(self, n: int, protected: set[OffloadKey]) -> list[tuple[OffloadKey, ChunkStatus]] | None:
        """So many chunks leave; None, and nothing changes, where fewer can."""
        if len(self._free) - len(self._free & protected) < n:
            return None
        gone = self._tier.victims(n, lambda key: key in protected or key not in self._free)
        self._free.difference_update(gone)
        return [(key, self._chunks.pop(key)) for key in gone]

    def clear(self) -> None:
        """All chunks go."""
        self._chunks.clear()
        self._free.clear()
        self._tier.clear()

    def mark_evictable(self, key: OffloadKey) -> None:
        """The last transfer of the chunk is over."""
        self._free.add(key)

    def mark_non_evictable(self, key: OffloadKey) -> None:
        """A transfer of the chunk begins."""
        self._free.discard(key)


def __getattr__(name: str) -> type[LabCachePolicy]:
    """The class of a policy by its name, which is how vLLM asks for one.

    Raises:
        UnknownPolicy: the lab has none of that name.
    """
    policy = name.removeprefix(PREFIX)
    if name.startswith("__") or policy not in POLICIES:
        raise UnknownPolicy(unknown("policy", name, POLICIES))
    return type(name, (LabCachePolicy,), {"name": policy, "__doc__": f"The lab's {policy}."})

"""vLLM's own host tier for the comparison with the lab's: its manager, driven without a worker."""

from collections.abc import Sequence

from vllm.v1.kv_offload.base import LookupResult, OffloadKey, ReqContext, make_offload_key
from vllm.v1.kv_offload.cpu.manager import CPUOffloadingManager

from kv_cache_rl.core.errors import Refused, unknown
from kv_cache_rl.sim.hierarchy.policies import POLICIES
from kv_cache_vllm.offload import PREFIX

OWN = ("lru", "arc")
"""The policies that vLLM has itself."""
MODULE = "kv_cache_vllm.offload"


class EngineHost:
    """CPUOffloadingManager under a policy of vLLM's own, or of the lab (`lab_NAME`)."""

    def __init__(self, policy: str, blocks: int) -> None:
        """An empty tier.

        Raises:
            Refused: a policy that neither has.
        """
        known = (*OWN, *(PREFIX + name for name in POLICIES))
        if policy not in known:
            raise Refused(unknown("policy", policy, known))
        self.manager = CPUOffloadingManager(blocks, policy, None if policy in OWN else MODULE)
        self._requests = 0

    def holds(self, block: int) -> bool:
        """Whether a block can be loaded."""
        return self.manager.lookup(_key(block), ReqContext(str(self._requests))) is LookupResult.HIT

    def serve(self, loaded: Sequence[int], offered: Sequence[int]) -> tuple[list[int], list[int]]:
        """Loads some blocks of a request and takes others in; which ones entered, and which ones left."""
        self._requests += 1
        request = ReqContext(str(self._requests))
        for at, block in enumerate([*loaded, *offered]):
            request.set_offload_key_position(_key(block), at + 1)
        self.manager.on_new_request(request)
        reads, writes = [_key(block) for block in loaded], [_key(block) for block in offered]
        if reads:
            self.manager.prepare_load(reads, request)
            self.manager.complete_load(reads, request)
        stored, evicted = [], []
        if writes and (answer := self.manager.prepare_store(writes, request)) is not None:
            stored, evicted = answer.keys_to_store, answer.evicted_keys
            self.manager.complete_store(stored, request)
        self.manager.on_request_finished(request)
        return [_block(key) for key in stored], [_block(key) for key in evicted]


def _key(block: int) -> OffloadKey:
    return make_offload_key(block.to_bytes(8, "big"), 0)


def _block(key: OffloadKey) -> int:
    return int.from_bytes(key[:8], "big")


def named(policy: str) -> str:
    """What vLLM calls a policy: its own by their names, the lab's with the prefix."""
    return policy if policy in OWN else PREFIX + policy


def version() -> str:
    """Name and version of the engine."""
    import vllm

    return f"vllm {vllm.__version__}"

"""What a scheduler does with blocks, in its order: taken, freed, stored, removed.

The three methods of its KV cache manager that move blocks are wrapped, and its publisher of KV events is
replaced. Blocks are named by their numbers in the trace.
"""

from collections import Counter
from typing import Any

import msgspec
from vllm.v1.core.kv_cache_utils import maybe_convert_block_hash

from kv_cache_rl.experiments.engine.plan import Asked


def number_of(request: Any) -> int:
    """The number of a request in the trace: vLLM adds a random part to the name that it was given."""
    return int(request.request_id.partition("-")[0])


class Watch:
    """The books of one engine: what happened since they were last taken."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler, self._manager = scheduler, scheduler.kv_cache_manager
        self._blocks = self._manager.coordinator.single_type_managers[0]
        self._asked: dict[int, Asked] = {}
        self._named: dict[Any, int] = {}
        self._found: dict[int, int] = {}
        self._told: dict[int, tuple[int, int]] = {}
        self._ops: list[tuple[Any, ...]] = []
        self._events: list[dict[str, Any]] = []
        self.first_found: dict[int, int] = {}
        """Request → blocks found when it first started."""
        self.preempted: Counter[int] = Counter()
        """Request → how often it was preempted."""
        self._size = self._blocks.block_size
        self._wrap()

    def _wrap(self) -> None:
        manager = self._manager
        find, take, free = manager.get_computed_blocks, manager.allocate_slots, manager.free

        def finding(request: Any) -> Any:
            answer = find(request)
            self._found[number_of(request)] = answer[1] // self._size
            return answer

        def taking(request: Any, *arguments: Any, **more: Any) -> Any:
            taken = take(request, *arguments, **more)
            if taken is not None:
                self._took(request)
            return taken

        def freeing(request: Any) -> None:
            number = number_of(request)
            self._ops.append(("free", number))
            self._told.pop(number, None)
            self.preempted[number] += not request.is_finished()
            free(request)

        manager.get_computed_blocks, manager.allocate_slots, manager.free = finding, taking, freeing
        self._scheduler.kv_event_publisher = self

    def _took(self, request: Any) -> None:
        number, name = number_of(request), request.request_id
        found = self._found.pop(number, None)
        full, held = self._blocks.num_cached_block.get(name, 0), len(self._blocks.req_to_blocks[name])
        if found is not None:
            self.first_found.setdefault(number, found)
        before = self._told.get(number)
        if found is None and before == (full, held):
            return
        asked = self._asked[number]
        for at in range(0 if before is None else before[0], full):
            self._named[maybe_convert_block_hash(request.block_hashes[at])] = asked.blocks[at]
        self._told[number] = (full, held)
        self._ops.append(("take", number, found, full, held))

    def expect(self, asked: Asked) -> None:
        """A request is about to be handed over."""
        self._asked[asked.number] = asked

    def publish(self, batch: Any) -> None:
        """Called by the scheduler in place of its publisher."""
        for event in batch.events:
            self._events.append(self._renamed(msgspec.to_builtins(event)))

    def shutdown(self) -> None:
        """Called by the scheduler at its end."""

    def _renamed(self, event: dict[str, Any]) -> dict[str, Any]:
        kept = {name: event[name] for name in ("type", "block_size") if name in event}
        if "block_hashes" in event:
            kept["block_hashes"] = [self._named[block] for block in event["block_hashes"]]
        if event["type"] == "BlockStored":
            parent = event["parent_block_hash"]
            kept |= {"parent_block_hash": None if parent is None else self._named[parent], "token_ids": []}
        return kept

    def taken(self) -> tuple[tuple[tuple[Any, ...], ...], list[dict[str, Any]]]:
        """What was done with blocks, and the KV events, since the last call."""
        ops, events = tuple(self._ops), self._events
        self._ops, self._events = [], []
        return ops, events

    def forget(self) -> None:
        """Preemptions and first finds so far count no more."""
        self.first_found.clear()
        self.preempted.clear()

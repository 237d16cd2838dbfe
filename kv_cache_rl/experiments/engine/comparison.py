"""An engine and the lab, request by request: how many are equal, and why the others are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kv_cache_rl.experiments.engine.folder import Recorded, Recording, held, note
from kv_cache_rl.experiments.engine.plan import EngineError
from kv_cache_rl.experiments.engine.replayed import Lookup, Replayed, as_scheduled, blocks_of, in_order

SCHEDULED = "as scheduled"
ORDERS: dict[str, Callable[[Recording], Replayed]] = {"in order": in_order, SCHEDULED: as_scheduled}
"""How the lab replays: one request after the other, or taking and freeing blocks as the engine did."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A request of which both sides found another number of blocks."""

    request: int
    engine: int
    lab: int
    block: int | None
    """The first block that one found and the other did not; None: it is beyond what was recorded."""
    depth: int
    engine_held: bool
    lab_held: bool
    removed_in_step: int | None
    """When the engine last removed the block; None: never before."""
    step: int
    cause: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """One recording in one order."""

    recording: str
    order: str
    config: dict[str, Any]
    requests: int
    starts: int
    """Requests and their restarts after a preemption, each of which looks its blocks up."""
    equal: int
    """Of these."""
    prompt_blocks: int
    engine_found: int
    lab_found: int
    preempted: int
    held: dict[str, int] | None
    """Blocks in the cache at the end: engine, lab, both; None where removals were not recorded."""
    causes: dict[str, int]
    first: Difference | None

    @property
    def engine_rate(self) -> float:
        """Blocks found of those looked up, in the engine."""
        return self.engine_found / max(self.prompt_blocks, 1)

    @property
    def lab_rate(self) -> float:
        """The same in the lab."""
        return self.lab_found / max(self.prompt_blocks, 1)

    def to_json(self) -> dict[str, Any]:
        """Everything, with both rates and their distance in points."""
        rates = {"engine_rate": self.engine_rate, "lab_rate": self.lab_rate}
        return asdict(self) | rates | {"points": 100 * (self.lab_rate - self.engine_rate)}


def compare(recording: Recording, order: str) -> Comparison:
    """A recording beside the lab.

    Raises:
        EngineError: nothing was recorded, or under another policy than LRU, or without prefix caching.
    """
    config = recording.config
    if not recording.requests:
        raise EngineError(f"{recording.folder} holds no finished request; go on with engine record --resume")
    if config.policy != "lru":
        raise EngineError(
            f"{recording.folder} was recorded under {config.policy}; compare takes recordings of vLLM's own "
            "order"
        )
    if not config.prefix_caching:
        raise EngineError(
            f"{recording.folder} was recorded without prefix caching, so no request looks blocks up; leave "
            "--order out, and its steps alone are compared"
        )
    replayed = ORDERS[order](recording)
    by_number = {one.request: one for one in recording.requests}
    lookups = [one for one in replayed.lookups if one.request in by_number]
    kept, differences = _explained(recording, order, lookups, by_number)
    return Comparison(
        recording=recording.folder.name,
        order=order,
        config=asdict(config),
        requests=len(recording.requests),
        starts=len(lookups),
        equal=sum(one.engine == one.lab for one in lookups),
        prompt_blocks=sum(by_number[one.request].prompt // config.block_tokens for one in lookups),
        engine_found=sum(one.engine for one in lookups),
        lab_found=sum(one.lab for one in lookups),
        preempted=sum(one.preempted for one in recording.requests),
        held={"engine": len(kept), "lab": len(replayed.held), "both": len(kept & replayed.held)},
        causes=dict(Counter(one.cause for one in differences).most_common()),
        first=differences[0] if differences else None,
    )


class _Cache:
    """What the engine's cache held, by its KV events up to a step."""

    def __init__(self, recording: Recording) -> None:
        self._events = recording.events()
        self._next = next(self._events, None)
        self._copies: Counter[int] = Counter()
        self.removed: dict[int, int] = {}
        self.twice = False
        """Whether a block was there more than once."""

    @property
    def held(self) -> set[int]:
        """Blocks of which at least one copy is there."""
        return held(self._copies)

    def until(self, step: float) -> None:
        """Takes up the events of all steps before."""
        while self._next is not None and self._next[0] < step:
            for event in self._next[1]:
                self.removed |= dict.fromkeys(note(event, self._copies), self._next[0])
                self.twice |= any(self._copies[block] > 1 for block in event.get("block_hashes", ()))
            self._next = next(self._events, None)


def _explained(
    recording: Recording, order: str, lookups: Sequence[Lookup], by_number: dict[int, Recorded]
) -> tuple[set[int], list[Difference]]:
    """The engine's blocks at the end, and the lookups that differ, each with its cause."""
    cache, found = _Cache(recording), list[Difference]()
    for one in sorted(lookups, key=lambda one: one.step):
        if one.engine == one.lab:
            continue
        cache.until(one.step)
        path = blocks_of(by_number[one.request].blocks)
        depth = min(one.engine, one.lab)
        block = path[depth] if depth < len(path) else None
        beside = [
            other
            for other in recording.requests
            if order != SCHEDULED
            and other.request != one.request
            and other.steps[0] <= one.step <= other.steps[1]
        ]
        found.append(
            Difference(
                request=one.request,
                engine=one.engine,
                lab=one.lab,
                block=block,
                depth=depth,
                engine_held=block is not None and block in cache.held,
                lab_held=one.lab > one.engine,
                removed_in_step=None if block is None else cache.removed.get(block),
                step=one.step,
                cause=_cause(
                    one, block, cache, beside, by_number[one.request], recording.config.block_tokens
                ),
            )
        )
    cache.until(float("inf"))
    return cache.held, found


WHOLE = "a prompt of whole blocks: vLLM computes its last token anew, and so does not use the last block"
UNWRITTEN = "a request beside it had not computed the block yet"
ROOM = "requests beside it held room that the lab, one at a time, has free"
RELEASED = "requests beside it released their blocks later than the lab's order has them"
COPIES = "the engine held a block twice, and so had room for one less"
UNKNOWN = "not explained"
CAUSES = (WHOLE, UNWRITTEN, ROOM, RELEASED, COPIES, UNKNOWN)
"""Why a request finds another number of blocks in the lab."""


def _cause(
    one: Lookup, block: int | None, cache: _Cache, beside: Sequence[Recorded], asked: Recorded, size: int
) -> str:
    if one.lab > one.engine:
        if asked.prompt % size == 0 and one.engine == asked.prompt // size - 1:
            return WHOLE
        if any(block in blocks_of(other.blocks) for other in beside):
            return UNWRITTEN
        if beside:
            return ROOM
    elif beside:
        return RELEASED
    return COPIES if cache.twice else UNKNOWN

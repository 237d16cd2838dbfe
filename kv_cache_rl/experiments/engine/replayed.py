"""A recording's requests in the hierarchy lab: the same blocks, the same pool, LRU.

What the lab is told of an engine's book-keeping, and nothing of what the engine found:

* One block of the pool is vLLM's null block, which holds nothing.
* A running request holds, besides its full blocks, the block it fills in part; it is free again at the end.
* The last token of an answer is sampled and never computed, so a block that it would complete is not full.

`in_order` replays one request after the other. `as_scheduled` follows the recording's order of taking and
freeing blocks where requests ran beside each other: a running request's blocks are touched anew after every
release, so that they are newer than every free block, which under LRU keeps them as a reference would.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from kv_cache_rl.experiments.engine.folder import Config, Recorded, Recording, Run
from kv_cache_rl.experiments.engine.plan import EngineError
from kv_cache_rl.sim.hierarchy.dynamics import advance_answered, new_state
from kv_cache_rl.sim.hierarchy.engine import advance_trace
from kv_cache_rl.sim.hierarchy.spec import one_tier
from kv_cache_rl.sim.hierarchy.state import State
from kv_cache_rl.sim.hierarchy.traces.trace import ROOT, Trace, Writes, expand, last_of

NULL_BLOCKS = 1
"""Blocks of vLLM's pool that hold nothing. Source: vllm/v1/core/block_pool.py, `null_block`."""


def blocks_of(runs: Iterable[Run]) -> list[int]:
    """The blocks of runs, one by one."""
    return [block for start, length in runs for block in range(start, start + length)]


def full_blocks(one: Recorded, config: Config) -> int:
    """Blocks of a request that are full when it is over: the last token of the answer is not computed."""
    return (one.prompt + one.generated - 1) // config.block_tokens


def numbers_of(requests: Sequence[Recorded]) -> np.ndarray:
    """The different blocks of all requests, ascending; their places are their dense numbers."""
    return np.unique(np.array([block for one in requests for block in blocks_of(one.blocks)], np.int64))


def in_trace(requests: Sequence[Recorded], config: Config) -> Trace:
    """The requests as a trace of the lab, in the order given; blocks are numbered densely."""
    size = config.block_tokens
    known = numbers_of(requests)
    dense = [np.searchsorted(known, blocks_of(one.blocks)) for one in requests]
    base = np.array([one.prompt // size for one in requests])
    full = np.array([full_blocks(one, config) for one in requests])
    prompts = [path[:until] for path, until in zip(dense, base, strict=True)]
    parts = list(zip(dense, base, full, strict=True))
    wrote = [path[start:until] for path, start, until in parts]
    above = [np.concatenate([[ROOT], path])[start:until] for path, start, until in parts]
    computed = np.array([one.prompt + one.generated - 1 for one in requests])
    room = (computed % size > 0).astype(np.int64)
    writes = Writes(_edges(wrote), _joined(wrote), _joined(above), base, len(known), room)
    starts = _joined(prompts)
    sequence = np.unique([one.sequence for one in requests], return_inverse=True)[1].reshape(-1)
    return Trace(
        name=config.trace,
        chained=True,
        block_tokens=size,
        time_s=np.arange(len(requests), dtype=np.float64),
        sequence=sequence.astype(np.int64),
        first_run=_edges(prompts),
        run_start=starts,
        run_length=np.ones(len(starts), np.int64),
        blocks=len(known),
        page_bytes=0,
        input_tokens=np.array([one.prompt for one in requests]),
        output_tokens=np.array([one.generated for one in requests]),
        ends=last_of(sequence),
        writes=writes,
    )


def _edges(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([*parts, np.zeros(0, np.int64)]).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Lookup:
    """A request that starts: how many leading blocks of it each side had."""

    request: int
    step: int
    engine: int
    lab: int


@dataclass(frozen=True, slots=True)
class Replayed:
    """A recording in the lab."""

    lookups: tuple[Lookup, ...]
    held: frozenset[int]
    """Blocks in the lab's cache at the end."""


def started_in_order(recording: Recording) -> list[Recorded]:
    """The requests in the order in which they first started: of one step, in the trace's order."""
    return sorted(recording.requests, key=lambda one: (one.steps[0], one.request))


def in_order(recording: Recording) -> Replayed:
    """One request after the other, in the order in which they started."""
    requests = started_in_order(recording)
    trace = in_trace(requests, recording.config)
    state = new_state(trace, one_tier(recording.config.blocks - NULL_BLOCKS), "lru")
    advance_trace(state, trace, *expand(trace), 0, trace.requests)
    found = zip(requests, state.hits.tolist(), strict=True)
    lookups = [Lookup(one.request, one.steps[0], one.found, hits) for one, hits in found]
    return Replayed(tuple(lookups), _held(state, numbers_of(requests)))


def _held(state: State, known: np.ndarray) -> frozenset[int]:
    return frozenset(known[state.page["tier"] == 0].tolist())


def as_scheduled(recording: Recording) -> Replayed:
    """In the recorded order of taking and freeing blocks; what is found is up to the lab.

    Raises:
        EngineError: a request was cut off, one that is over has no step, or steps do not fit each other.
    """
    running = _Running(recording)
    lookups: list[Lookup] = []
    over = {one.request for one in recording.requests}
    for step in list(recording.steps()):  # first all are read: what is wrong with the file is said before
        for op in step.ops:
            if op[1] not in over:
                raise EngineError(
                    f"{recording.folder}: request {op[1]} was cut off, and its blocks are not known; record "
                    "again, or compare with --order in-order"
                )
            if op[0] == "free":
                if not running.holds(op[1]):
                    raise _unfit(
                        recording, f"in step {step.step} request {op[1]} frees blocks and holds none"
                    )
                running.free(op[1])
                continue
            _, number, found, full, held = op
            if found is not None:
                lookups.append(Lookup(number, step.step, found, running.start(number)))
            if running.room - running.room_of(number) + held - full > recording.config.blocks:
                raise _unfit(recording, f"in step {step.step} requests hold more blocks than the pool has")
            running.take(number, full, held)
    if missing := over - {one.request for one in lookups}:
        raise EngineError(
            f"{recording.folder}: {len(missing):,} requests have no step; restore steps.jsonl, or "
            "compare with --order in-order"
        )
    return Replayed(tuple(lookups), _held(running.state, running.known))


def _unfit(recording: Recording, what: str) -> EngineError:
    return EngineError(f"{recording.folder}: {what}; restore steps.jsonl, or compare with --order in-order")


class _Running:
    """The lab under requests that run beside each other."""

    def __init__(self, recording: Recording) -> None:
        requests, config = started_in_order(recording), recording.config
        self.known = numbers_of(requests)
        self.state = new_state(in_trace(requests, config), one_tier(config.blocks - NULL_BLOCKS), "lru")
        self._paths = {one.request: np.searchsorted(self.known, blocks_of(one.blocks)) for one in requests}
        self._findable = {one.request: (one.prompt - 1) // config.block_tokens for one in requests}
        self._full: dict[int, int] = {}
        self._held: dict[int, int] = {}

    def start(self, number: int) -> int:
        """Leading blocks of a request that are there."""
        path = self._paths[number][: self._findable[number]]
        missing = np.flatnonzero(self.state.page["tier"][path] != 0)
        return int(missing[0]) if len(missing) else len(path)

    def holds(self, number: int) -> bool:
        """Whether a request has taken blocks, and not let them go."""
        return number in self._held

    @property
    def room(self) -> int:
        """Blocks that are held and not full."""
        return sum(self._held.values()) - sum(self._full.values())

    def room_of(self, number: int) -> int:
        """The same of one request."""
        return self._held.get(number, 0) - self._full.get(number, 0)

    def take(self, number: int, full: int, held: int) -> None:
        """A request has so many full blocks now, and holds so many in all."""
        before = self._full.get(number, 0)
        self._full[number], self._held[number] = full, held
        self._touch(self._paths[number][before:full])

    def free(self, number: int) -> None:
        """A request lets its blocks go, the last one first; what it computed can be found when it returns."""
        full = self._full.pop(number)
        del self._held[number]
        self._findable[number] = max(self._findable[number], full)
        self._touch(self._paths[number][:full])
        for other, kept in self._full.items():
            self._touch(self._paths[other][:kept])

    def _touch(self, blocks: np.ndarray) -> None:
        none, nothing = np.zeros(2, np.int64), np.zeros(0, np.int64)
        begins = np.array([0, len(blocks)])
        wrote = begins, blocks, np.zeros(1, np.int64), np.array([self.room])
        advance_answered(self.state, none, nothing, *wrote, 0, 1)

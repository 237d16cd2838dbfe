"""Two tiers as an engine offloads: what is computed is written through to the host, loads leave a copy there.

    request   |= found on the GPU =|= found below: loaded =|= computed, and offered to the host tier =|
    GPU       LRU, every block of the request used, the last first
    host      what it lacks of the blocks offered enters, room is made before; once the request is over, the
              blocks that it reused count as used and those that entered as newest, the last first

`LabHost` is the host tier under a policy of the lab, `EngineHost` (engines/kv_cache_vllm) vLLM's own manager:
driven alike, their keys can be compared request by request.

Source: vLLM 0.32, v1/kv_offload/cpu/manager.py (CPUOffloadingManager) and the scheduler that calls it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any, Protocol

from kv_cache_rl.sim.hierarchy.live import LiveTier
from kv_cache_rl.sim.hierarchy.traces.trace import Trace, expand


@dataclass(frozen=True, slots=True)
class Moved:
    """What one request moved."""

    gpu: int
    """Blocks found on the GPU."""
    host: int
    """Blocks found behind them in the host tier, and loaded."""
    stored: tuple[int, ...]
    """Blocks that entered the host tier, in the order of the request."""
    evicted: tuple[int, ...]
    """Blocks that left it, the first first."""


class Host(Protocol):
    """A host tier: which blocks it has, and what it does with those of a request."""

    def holds(self, block: int) -> bool:
        """Whether a block can be loaded."""
        ...

    def serve(self, loaded: Sequence[int], offered: Sequence[int]) -> tuple[list[int], list[int]]:
        """Loads some blocks of a request and takes others in; which ones entered, and which ones left."""
        ...


class LabHost:
    """A host tier under a policy of the lab."""

    def __init__(self, policy: str, blocks: int) -> None:
        self.tier = LiveTier[int](policy, blocks)

    def holds(self, block: int) -> bool:
        """Whether a block can be loaded."""
        return block in self.tier

    def serve(self, loaded: Sequence[int], offered: Sequence[int]) -> tuple[list[int], list[int]]:
        """Loads some blocks of a request and takes others in; which ones entered, and which ones left."""
        entering = [block for block in offered if block not in self.tier]
        for block in reversed(entering):
            self.tier.asked(block)
            self.tier.announced(block)
        spared = set(offered)
        room = self.tier.capacity - len(self.tier)
        leaving = max(0, len(entering) - room)
        held = sum(block in self.tier for block in spared)
        if leaving > len(self.tier) - held:  # vLLM stores nothing then
            entering, leaving = [], 0
        gone = self.tier.victims(leaving, spared.__contains__)
        for block in entering:
            self.tier.entered(block)
        new = set(entering)
        for block in reversed([*loaded, *offered]):
            if block in new:
                self.tier.renewed(block)
            elif block in self.tier:
                self.tier.asked(block)
        return entering, gone


def paths(trace: Trace, limit: int | None = None) -> Iterator[list[int]]:
    """The blocks of each request, from the root on."""
    first, block = expand(trace)
    for r in range(trace.requests if limit is None else min(limit, trace.requests)):
        yield block[first[r] : first[r + 1]].tolist()


def offloaded(requests: Iterable[Sequence[int]], gpu: int, host: Host) -> list[Moved]:
    """What each request moves, one after the other; the GPU has room for `gpu` blocks, under LRU."""
    tier, found = LiveTier[int]("lru", gpu), []
    for blocks in requests:
        there = sum(1 for _ in takewhile(tier.__contains__, blocks))
        below = sum(1 for _ in takewhile(host.holds, blocks[there:]))
        computed = blocks[there + below :]
        stored, evicted = host.serve(blocks[there : there + below], computed)
        for block in reversed(blocks):
            if not tier.asked(block):
                tier.announced(block)
                if len(tier) == gpu:
                    tier.victims(1)
                tier.entered(block)
        found.append(Moved(there, below, tuple(stored), tuple(evicted)))
    return found


@dataclass(frozen=True, slots=True)
class Likeness:
    """How two host tiers that served the same requests compare."""

    requests: int
    equal: int
    """Requests that found, stored and evicted the same blocks."""
    gpu: int
    """Blocks found on the GPU, the same in both."""
    lab_host: int
    """Blocks that the lab's host tier had for the requests."""
    engine_host: int
    lab_stored: int
    engine_stored: int
    first: str
    """The first request that differs, and how; empty where none does."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def likeness(lab: Sequence[Moved], engine: Sequence[Moved]) -> Likeness:
    """Compares what both moved, request by request."""
    pairs = list(zip(lab, engine, strict=True))
    first = next((at for at, (left, right) in enumerate(pairs) if left != right), None)
    return Likeness(
        len(pairs),
        sum(left == right for left, right in pairs),
        sum(one.gpu for one in lab),
        sum(one.host for one in lab),
        sum(one.host for one in engine),
        sum(len(one.stored) for one in lab),
        sum(len(one.stored) for one in engine),
        "" if first is None else f"request {first}: {_told(*pairs[first])}",
    )


def _told(lab: Moved, engine: Moved) -> str:
    if (lab.gpu, lab.host) != (engine.gpu, engine.host):
        return f"{lab.host:,} blocks found below in the lab, {engine.host:,} in the engine"
    for name in ("stored", "evicted"):
        left, right = getattr(lab, name), getattr(engine, name)
        at = next((at for at, pair in enumerate(zip(left, right, strict=False)) if pair[0] != pair[1]), None)
        if at is not None:
            return f"block {left[at]} is {name} in the lab, {right[at]} in the engine"
        if len(left) != len(right):
            return f"{len(left):,} blocks are {name} in the lab, {len(right):,} in the engine"
    return ""

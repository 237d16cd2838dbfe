"""The engine under `semantics="kv-hierarchy-lab"`: the seed's simulator, equal to the last bit.

    access -> find the page -> hit in the top tier, or miss: (cold insert into the last tier) -> promote to
    the top
           -> a pending prefetch was useful -> prefetch the usual successors
    promote: make room on top (a cascade of demotions), take from the source, add on top, charge the transfer

Its mistakes are kept to reproduce its numbers. The page that is promoted still lies in its source
while room is made, so that a cascade that reaches it may demote or drop it, and it ends in two
tiers. Cold writes are free, misses read nothing, and demotions for a prefetch are charged to
demand. The default engine does none of this.

Source: kv-hierarchy-lab at commit 222356d.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from kv_cache_rl.sim.hierarchy.generate import footprints
from kv_cache_rl.sim.hierarchy.peer.history import History, peer_parameters
from kv_cache_rl.sim.hierarchy.peer.spec import DECODE_PENALTY_MS, PeerTier
from kv_cache_rl.sim.hierarchy.spec import HierarchyError
from kv_cache_rl.sim.hierarchy.traces.trace import Trace


class Event(NamedTuple):
    """A page that moved.

    `kind` is promote, prefetch, demote or evict (dropped from the last tier, which costs nothing).
    """

    step: int
    kind: str
    page: int
    source: int | None
    destination: int | None
    latency_ms: float
    bytes: int


class OversizePageError(HierarchyError):
    """A page that is larger than a tier it has to pass through."""


@dataclass(frozen=True, slots=True)
class PeerReport:
    """The results of a run."""

    metrics: dict
    """In the peer's order and under its names."""
    events: tuple[Event, ...]
    served_by: str
    """One character per access: the index of the tier that held the page, C if none did."""
    residency: tuple[tuple[int, ...], ...]
    """Page ids per tier after the last access, in order of insertion."""
    latency_ms: float
    """Sum over all accesses."""


@dataclass(slots=True)
class Level:
    """A tier and its pages in order of insertion, which breaks every policy's ties."""

    tier: PeerTier
    pages: dict[int, int] = field(default_factory=dict)
    used: int = 0
    peak: int = 0

    def add(self, page: int, size: int) -> None:
        """Adds a page, unless it is here already."""
        if page not in self.pages:
            self.pages[page] = size
            self.used += size
            self.peak = max(self.peak, self.used)

    def remove(self, page: int) -> None:
        """Removes a page, if it is here."""
        self.used -= self.pages.pop(page, 0)


@dataclass(slots=True)
class Run:
    """The state of one replay."""

    levels: list[Level]
    sizes: list[int]
    penalties: list[float]
    history: History
    step: int = 0
    latency_ms: float = 0.0
    counts: Counter = field(default_factory=Counter)
    pending: set[int] = field(default_factory=set)
    events: list[Event] = field(default_factory=list)


def replay_peer(
    ids: Sequence[int] | np.ndarray,
    page_bytes: Sequence[int] | np.ndarray,
    tiers: Sequence[PeerTier],
    policy: str,
    *,
    schemes: str | Sequence[str] = "fp16",
    prefetch: bool = True,
    max_prefetch_candidates: int = 2,
    steps: Sequence[int] | np.ndarray | None = None,
    parameters: dict[str, float] | None = None,
) -> PeerReport:
    """The peer's metrics, events and outcomes for accesses to pages `ids`.

    Page i takes `page_bytes[i]` bytes in `schemes[i]`.

    `prefetch` permits prefetching; only the policy `predictive` ever does. `steps` defaults to 0,
    1, 2, …

    Raises:
        OversizePageError: when room for a page cannot be made even by emptying a tier.
        HierarchyError: for an unknown policy, parameter or scheme, no tier, or a page without a
            size.
    """
    sizes, pages = [int(size) for size in page_bytes], [int(page) for page in ids]
    clock = list(range(len(pages))) if steps is None else [int(step) for step in steps]
    _check(pages, sizes, tiers, clock)
    run = Run(
        levels=[Level(tier) for tier in tiers],
        sizes=sizes,
        penalties=_penalties(schemes, len(sizes)),
        history=History(policy, peer_parameters(policy, parameters), sizes),
    )
    served_by: list[int] = []
    for step, page in zip(clock, pages, strict=True):
        run.step = step
        served_by.append(_access(run, page))
        if prefetch:
            for successor in run.history.expected(page)[:max_prefetch_candidates]:
                _prefetch(run, successor)
    return PeerReport(
        metrics=_metrics(run, served_by),
        events=tuple(run.events),
        served_by="".join("C" if tier < 0 else str(tier) for tier in served_by),
        residency=tuple(tuple(level.pages) for level in run.levels),
        latency_ms=run.latency_ms,
    )


def replay_peer_trace(
    trace: Trace,
    tiers: Sequence[PeerTier],
    policy: str,
    *,
    scheme: str = "fp16",
    prefetch: bool = True,
    parameters: dict[str, float] | None = None,
) -> PeerReport:
    """`replay_peer` for a page trace with all pages stored in `scheme`.

    The trace's clock, in whole steps, is the peer's.

    Raises:
        HierarchyError: for a prefix-tree trace, or one that does not know the bytes of its pages.
    """
    if trace.chained:
        raise HierarchyError(
            f"{trace.name} is a prefix-tree trace, kv-hierarchy-lab knows only pages; replay a page trace"
        )
    if not np.any(trace.page_bytes):
        raise HierarchyError(
            f"{trace.name} does not say how many bytes a page has; give page_bytes when making it"
        )
    sizes = footprints(np.broadcast_to(trace.page_bytes, trace.blocks), scheme)
    rules = {"schemes": scheme, "prefetch": prefetch, "parameters": parameters}
    return replay_peer(trace.run_start, sizes, tiers, policy, steps=trace.time_s.astype(np.int64), **rules)


def _check(pages: list[int], sizes: list[int], tiers: Sequence[PeerTier], clock: list[int]) -> None:
    if not tiers:
        raise HierarchyError("there is no tier to keep pages in; give at least one")
    if len(clock) != len(pages):
        raise HierarchyError(
            f"{len(clock)} steps are given for {len(pages)} accesses; give one per access, or none"
        )
    for position, page in enumerate(pages):
        if not 0 <= page < len(sizes):
            known = f"sizes are given for pages 0 to {len(sizes) - 1}"
            raise HierarchyError(f"access {position} asks for page {page}, {known}; give every page a size")
    for page, size in enumerate(sizes):
        if size < 1:
            raise HierarchyError(f"page {page} has {size} bytes; a page has at least 1")


def _penalties(schemes: str | Sequence[str], pages: int) -> list[float]:
    named = [schemes] * pages if isinstance(schemes, str) else list(schemes)
    for page, scheme in enumerate(named):
        if scheme not in DECODE_PENALTY_MS:
            raise HierarchyError(
                f"page {page} has scheme {scheme!r}; use one of {', '.join(DECODE_PENALTY_MS)}"
            )
    if len(named) != pages:
        raise HierarchyError(
            f"{len(named)} schemes are given for {pages} pages; give one per page, or one name for all"
        )
    return [DECODE_PENALTY_MS[scheme] for scheme in named]


def _find(run: Run, page: int) -> int:
    """Index of the fastest tier that holds the page, -1 if none does."""
    for t, level in enumerate(run.levels):
        if page in level.pages:
            return t
    return -1


def _access(run: Run, page: int) -> int:
    found = _find(run, page)
    run.history.on_access(page, run.step)
    if found == 0:
        run.latency_ms += run.levels[0].tier.read_latency_ms + run.penalties[page]
    else:
        run.counts["misses"] += 1
        _promote(run, page, _insert_cold(run, page) if found < 0 else found, "promote")
    if page in run.pending:
        run.pending.remove(page)
        run.counts["useful"] += 1
    return found


def _prefetch(run: Run, page: int) -> None:
    source = _find(run, page)
    if source == 0:
        return
    if source < 0:
        source = _insert_cold(run, page)
    run.pending.add(page)
    run.counts["requests"] += 1
    _promote(run, page, source, "prefetch")


def _insert_cold(run: Run, page: int) -> int:
    """Index of the last tier, which now holds the page; free, but it may push another page out."""
    last = len(run.levels) - 1
    _make_room(run, last, page)
    run.levels[last].add(page, run.sizes[page])
    run.history.on_insert(page, run.step)
    return last


def _promote(run: Run, page: int, source: int, kind: str) -> None:
    """Straight to the top, whatever tier it comes from; a page that is there already stays."""
    if page in run.levels[0].pages:
        return
    _make_room(run, 0, page)
    run.levels[source].remove(page)
    run.levels[0].add(page, run.sizes[page])
    _charge(run, kind, page, source, 0)
    run.history.on_insert(page, run.step)


def _make_room(run: Run, t: int, page: int) -> None:
    level, size = run.levels[t], run.sizes[page]
    while level.used + size > level.tier.capacity_bytes:
        if not level.pages:
            holds = f"tier {level.tier.name} holds {level.tier.capacity_bytes:,}"
            raise OversizePageError(
                f"page {page} has {size:,} bytes, {holds}: it never fits. "
                f"Give the tier at least {size:,} bytes, or store the page at fewer bits"
            )
        _evict(run, t, run.history.victim(level.pages, run.step))


def _evict(run: Run, t: int, victim: int) -> None:
    run.levels[t].remove(victim)
    run.counts["evictions"] += 1
    run.history.on_evict(victim, run.step)
    if t == 0 and victim in run.pending:
        run.pending.remove(victim)
        run.counts["wasted"] += 1
    if t + 1 == len(run.levels):
        run.events.append(Event(run.step, "evict", victim, t, None, 0.0, run.sizes[victim]))
        return
    _make_room(run, t + 1, victim)
    run.levels[t + 1].add(victim, run.sizes[victim])
    _charge(run, "demote", victim, t, t + 1)


def _charge(run: Run, kind: str, page: int, source: int, destination: int) -> None:
    """Adds the latency and bytes of a transfer, in the peer's order of summation.

    Only the prefetched page itself counts as prefetch.
    """
    s, d, size = run.levels[source].tier, run.levels[destination].tier, run.sizes[page]
    bandwidth = max(min(s.bandwidth_bytes_per_ms, d.bandwidth_bytes_per_ms), 1.0)
    cost = s.read_latency_ms + d.write_latency_ms + size / bandwidth + run.penalties[page]
    run.latency_ms += cost
    run.counts["prefetch_bytes" if kind == "prefetch" else "demand_bytes"] += size
    run.events.append(Event(run.step, kind, page, source, destination, cost, size))


def _metrics(run: Run, served_by: list[int]) -> dict:
    accesses, counts = len(served_by), run.counts
    # A Counter keeps the order of first use, which is the order of the peer's keys.
    served = Counter(tier for tier in served_by if tier >= 0)
    return {
        "accesses": accesses,
        "miss_count": counts["misses"],
        "eviction_count": counts["evictions"],
        "avg_latency_ms": run.latency_ms / accesses if accesses else 0.0,
        "overall_hit_rate": 1.0 - counts["misses"] / accesses if accesses else 0.0,
        "bytes_moved": counts["demand_bytes"] + counts["prefetch_bytes"],
        "demand_bytes_moved": counts["demand_bytes"],
        "prefetch_bytes_moved": counts["prefetch_bytes"],
        "prefetch_requests": counts["requests"],
        "useful_prefetches": counts["useful"],
        "wasted_prefetches": counts["wasted"] + len(run.pending),
        "prefetch_usefulness": counts["useful"] / counts["requests"] if counts["requests"] else 0.0,
        "tier_hit_rate": {run.levels[tier].tier.name: n / accesses for tier, n in served.items()},
        "peak_footprint_bytes": {level.tier.name: level.peak for level in run.levels},
    }

"""One tier of pages without parents: its order alone, several times sooner than `dynamics`.

There are no links. An access finds its page or computes it, and its seconds follow from the page's bytes:

    found      the order learns that its page was used
    not found  pages leave until there is room for it, and it enters

The policies are those of `queues`, `heap` and `tournament`, to the function. Here they run over a small state
that has the fields of `State` which they read: to pass all of `State` from call to call takes longer than all
the rest.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from kv_cache_rl.core.errors import unknown
from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.hierarchy import heap
from kv_cache_rl.sim.hierarchy.build import (
    counters_of,
    lists_of,
    pages_that_fit,
    ranked,
    rungs_of,
    settings_of,
    sketch_of,
    tiers_of,
)
from kv_cache_rl.sim.hierarchy.memory import remember
from kv_cache_rl.sim.hierarchy.policies import POLICIES, REGRET, order_of
from kv_cache_rl.sim.hierarchy.queues import QUEUES, folds
from kv_cache_rl.sim.hierarchy.seconds import compute_seconds, read_seconds
from kv_cache_rl.sim.hierarchy.sizes import page_sizes
from kv_cache_rl.sim.hierarchy.spec import HierarchyError, Scenario, one_tier, recompute_seconds
from kv_cache_rl.sim.hierarchy.state import (
    GHOST_A,
    LISTS,
    NONE,
    TOP,
    A,
    Order,
    State,
    records,
)
from kv_cache_rl.sim.hierarchy.traces.trace import Trace, pages
from kv_cache_rl.traces.errors import TraceError

MOST = 2**31 - 2
"""Accesses, and pages with the heads of their lists: clocks and links have 32 bits here."""
SHORT = (Order.LISTED, Order.HEAPED, Order.MATCHED)
"""Orders that this way keeps: all but those that take a scan or a draw."""
SIZE = np.dtype([("full_bytes", "i8"), ("level", "i8")])
LINKED = np.dtype([("next", "i4"), ("previous", "i4"), ("list", "i1"), ("mark", "i1")], align=True)
RANKED = np.dtype(
    [
        ("full_bytes", "i8"),
        *((name, "i4") for name in ("inserted", "last_access", "left_at", "place", "depth")),
        *((name, "i4") for name in ("frequency", "uses", "recent_uses")),
        *((name, "i1") for name in ("tier", "level")),
    ],
    align=True,
)
NARROW_ENTRY = np.dtype([("key", "f8"), ("page", "i4"), ("stamp", "i4")])
NARROW_MATCH = np.dtype([("until", "f8"), ("key", "f8"), ("stamp", "i4"), ("winner", "i4")])
"""Narrow records of what `state.NODE`, `PAGE`, `ENTRY` and `MATCH` say."""


class Listed(NamedTuple):
    """A replay under a queue; the fields are those of `State`."""

    settings: np.record
    counters: np.record
    tiers: np.recarray
    rungs: np.recarray
    page: np.ndarray  # SIZE [P], one record for all where they are equal
    node: np.recarray  # LINKED [P + LISTS]
    sketch: np.ndarray


class Ranked(NamedTuple):
    """A replay under a rank; the fields are those of `State`."""

    settings: np.record
    counters: np.record
    tiers: np.recarray
    rungs: np.recarray
    page: np.recarray  # RANKED [P]
    compute_s: np.ndarray  # this and the rest as in State
    heap: np.ndarray  # NARROW_ENTRY [1, P]
    use_class: np.ndarray
    match: np.ndarray  # NARROW_MATCH [1, M]
    regret: np.ndarray
    ring: np.ndarray
    hazard: np.ndarray
    returned: np.ndarray
    accessed: np.ndarray
    row: np.ndarray


def applies(state: State, trace: Trace, scenario: Scenario) -> bool:
    """Whether a replay is one tier of pages that stay as they are until room is needed."""
    return bool(
        len(scenario.tiers) == 1
        and not (trace.chained or state.settings.prefetching)
        and state.settings.order in SHORT
        and (scenario.squeeze, scenario.reserve) == ("fp16", "none")
        and max(trace.requests, trace.blocks + LISTS) <= MOST
    )


def small_state(policy: str, state: State) -> Listed | Ranked:
    """The part of a replay before its first request that its policy reads; what is counted is shared."""
    # Settings of its own: `advance_flat` tells the state that its order is not kept, while here it is.
    head = state.settings.copy(), state.counters, state.tiers, state.rungs
    return _small(policy, state.page["full_bytes"], head, state.sketch, state.compute_s)


Head = tuple[np.record, np.record, np.recarray, np.recarray]
"""The first four fields of a small state."""


def _small(
    policy: str, sizes: np.ndarray, head: Head, sketch: np.ndarray, compute_s: np.ndarray
) -> Listed | Ranked:
    count = len(sizes)
    if policy in QUEUES:
        return Listed(*head, _sized(sizes), lists_of(count, 1, LINKED), sketch)
    page = records(RANKED, count)
    page["full_bytes"] = sizes
    page["place"] = page["tier"] = page["left_at"] = NONE
    return Ranked(*head, page, compute_s, **ranked(count, 1, head[0], NARROW_ENTRY, NARROW_MATCH))


def _sized(sizes: np.ndarray) -> np.ndarray:
    """Records SIZE [P] that only lend their bytes.

    All pages of one size are one record, which stays in the processor's cache. Others are every other record
    of an array, so that compiled code has one type for both.
    """
    equal = (sizes == sizes[0]).all()
    page = records(SIZE, 1 if equal else 2 * len(sizes))
    page["full_bytes"][::2] = sizes[0] if equal else sizes
    page.flags.writeable = False
    return np.broadcast_to(page, len(sizes), subok=True) if equal else page[::2]


def walk(small: Listed | Ranked, blocks: np.ndarray, hits: np.ndarray) -> int:
    """Accesses these pages; returns how many were found, and says which in `hits`, if it has entries."""
    counters, access = small.counters, walk_queue if isinstance(small, Listed) else walk_rank
    found = access(small, blocks, hits)
    counters.clock = counters.requests = counters.requests + len(blocks)
    counters.drops = counters.evictions
    return int(found)


def advance_flat(state: State, small: Listed | Ranked, blocks: np.ndarray, start: int, stop: int) -> None:
    """Replays the accesses from `start` up to `stop`.

    `state` ends with the counts, latencies and tiers of pages that `dynamics.advance` would leave, but with
    an order that is not kept.
    """
    part, hits = blocks[start:stop], state.hits[start:stop]
    found = walk(small, part, hits)
    state.served[0] += found
    state.served[1] += len(part) - found
    state.latency[start:stop] = _seconds(state, part, hits)
    state.sums.seconds += state.latency[start:stop].sum() + len(part) * state.settings.compute_s
    state.page["tier"] = _tiers(small)
    state.settings.order = Order.UNKEPT


def _tiers(small: Listed | Ranked) -> np.ndarray:
    """The tier of each page, [P]."""
    if isinstance(small, Ranked):
        return small.page["tier"]
    which = small.node["list"][: len(small.page)]
    return np.where((which >= A) & (which < GHOST_A), TOP, NONE)


def _seconds(state: State, blocks: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """Seconds of accesses to these pages, which hit or not, float64 [len(blocks)]."""
    sizes = state.page["full_bytes"]
    equal = (sizes == sizes[0]).all()
    table = np.zeros((1 if equal else len(sizes), 2))
    _price(state._replace(sums=state.sums.copy()), table)
    return np.where(hits, table[0, 1], table[0, 0]) if equal else table[blocks, hits]


@uncounted
def _price(s, table):
    """Fills in seconds of an access that finds its page nowhere, and of one that finds it, by page."""
    for p in range(len(table)):
        read = read_seconds(s, p)
        table[p, 0] = compute_seconds(s, p, TOP) + s.tiers[TOP].write + read
        table[p, 1] = read


def hits_of(
    policy: str, parts: Iterable[np.ndarray], blocks: int, capacity: int, page_bytes: np.ndarray | int = 0
) -> int:
    """Accesses that hit in one tier under a policy, and nothing else: no memory is taken by access.

    Args:
        policy: any but those whose victim is drawn, or found by a scan.
        parts: page ids from 0 to blocks - 1, integers, as one array after the other.
        blocks: pages.
        capacity: bytes; pages where `page_bytes` is 0.
        page_bytes: of each page, int64 [blocks], or of all.

    Raises:
        HierarchyError: a policy that has no such replay, a page larger than the tier.
        TraceError: an id out of range.
    """
    if policy not in POLICIES:
        raise HierarchyError(unknown("policy", policy, POLICIES))
    if order_of(policy) not in SHORT:
        kept = ", ".join(name for name in POLICIES if order_of(name) in SHORT)
        raise HierarchyError(f"hits alone are not counted of {policy}, only of {kept}")
    probe = pages("pages", np.zeros(1, np.int64), page_bytes, blocks=blocks)
    scenario = one_tier(capacity)
    sizes = page_sizes(probe, scenario)
    fit = pages_that_fit(scenario, sizes)
    settings = settings_of(probe, scenario, policy, fit, 0, 32, tuple(REGRET.values()))
    head = settings, counters_of(), tiers_of(scenario), rungs_of(scenario)
    compute_s = np.array(recompute_seconds(scenario.profile, probe.block_tokens, 1))
    small = _small(policy, sizes, head, sketch_of(policy, min(fit, blocks)), compute_s)
    hits, none = 0, np.zeros(0, np.int64)
    for part in parts:
        if len(part) and not 0 <= int(part.min()) <= int(part.max()) < blocks:
            problem = f"ids run from {part.min()} to {part.max()}, there are {blocks} pages"
            raise TraceError(problem, path="page accesses", remedy="number them densely from 0")
        if len(part) > MOST - small.counters.requests:
            raise HierarchyError(f"more than {MOST:,} accesses are not supported; replay the trace in pieces")
        hits += walk(small, part, none)
    return hits


@uncounted
def walk_queue(s, blocks, hits):
    """Accesses pages under a queue; as `walk`."""
    queue, tier, found = s.settings.queue, s.tiers[TOP], 0
    for r in range(len(blocks)):
        p = np.int64(blocks[r])
        folds.accessed(queue, s, p)
        held = NONE < s.node[p].list < GHOST_A
        if held:
            found += 1
            folds.used(queue, s, TOP, p)
        else:
            folds.announced(queue, s, TOP, p)
            size = s.page[p].full_bytes
            while tier.capacity - tier.used < size:
                q = folds.victim(queue, s, TOP)
                tier.used -= s.page[q].full_bytes
                s.counters.evictions += 1
                folds.left(queue, s, TOP, q)
            tier.used += size
            tier.peak = max(tier.peak, tier.used)
            folds.entered(queue, s, TOP, p)
        if len(hits) > 0:
            hits[r] = held
    return found


@uncounted
def walk_rank(s, blocks, hits):
    """Accesses pages under a rank; as `walk`."""
    tier, found = s.tiers[TOP], 0
    for r in range(len(blocks)):
        p = np.int64(blocks[r])
        page = s.page[p]
        remember(s, p)
        held = page.tier == TOP
        if held:
            found += 1
            heap.rekey(s, TOP, p)
        else:
            while tier.capacity - tier.used < page.full_bytes:
                q = heap.lowest(s, TOP)
                tier.inflation = s.heap[TOP, s.page[q].place].key
                s.page[q].left_at = s.counters.clock
                tier.used -= s.page[q].full_bytes
                s.counters.evictions += 1
                heap.remove(s, TOP, q)
                s.page[q].tier = NONE
            tier.used += page.full_bytes
            tier.peak = max(tier.peak, tier.used)
            page.tier, page.inserted = TOP, s.counters.clock
            heap.add(s, TOP, p)
        if len(hits) > 0:
            hits[r] = held
    return found

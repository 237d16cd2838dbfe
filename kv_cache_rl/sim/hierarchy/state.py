"""Everything a replay knows, as columns: pages, their order in each tier, tiers, links and counters.

``P`` pages, ``L`` tiers, ``R`` requests, ``N`` nodes of lists: one per page, or one per page and tier (``tier
* P + page``) where a page may lie in one tier and be remembered as a ghost in another."""

from typing import NamedTuple

import numpy as np

from kv_cache_rl.core.candidates import CANDIDATE_COLS
from kv_cache_rl.core.pool import LedgerError
from kv_cache_rl.core.pool import check as check_ledger
from kv_cache_rl.core.precision import LADDER, PRECISIONS
from kv_cache_rl.policies.rank import DRIFTS, RANKS
from kv_cache_rl.sim.hierarchy.spec import RESERVES, HierarchyError, Scenario, recompute_seconds
from kv_cache_rl.sim.hierarchy.traces.trace import Trace, expand, parents
from kv_cache_rl.theory.flow import new_flow

NONE = -1
LISTS = 5
# Arguments of compiled functions are typed: a plain literal would compile each function anew for every value.
A, B, C, GHOST_A, GHOST_B = np.arange(LISTS)
TOP = np.int64(0)
(LISTED, HEAPED, SCANNED, UNKEPT) = range(4)
TREELESS = ("fifo",)
"""Policies that let a block leave before its children; these stay, cannot be reached, and are found again if
it returns.
"""
GHOSTED = ("arc", "s3fifo")
QUEUES = ("slru", "arc", "s3fifo", "sieve", "tinylfu")
POLICIES = (*RANKS, *QUEUES)
POLICY_IDS = {name: k for k, name in enumerate(POLICIES)}
(CLOCK, EVICTIONS, DROPS, COMPRESSIONS, RECOMPUTED, PREFETCHES, USEFUL, WASTED) = range(8)
(DONE, RING, DRAWS, SKETCH_ADDS, BEFORE, ABOVE, LEAF) = range(8, 15)
COUNTERS = 15
(SECONDS, DRAINED, SQUEEZED, LOSS, KL) = range(5)
CLOCKS = 5
UP, DOWN = 0, 1
DEMAND, PREFETCH = np.arange(2)
SUCCESSORS, CLASSES, AGES = 4, 8, 64
(LOSSES, DIVERGENCE, ENCODE, DECODE, COMPUTE) = range(0, 15, 3)
(KIND, POLICY, CHAINED, WINDOW, HORIZON, SQUEEZE, PREFETCHING) = range(7)
(MAX_PREFETCH, OVERLAP, RECOMPUTE, STEPWISE, SEED, AGE_SHIFT, NODES, STRIDE, CLOSED, RESERVED) = range(7, 17)
KEPT = 17
SETTINGS = KEPT + 3
"""kept: 1024ths of its bytes that a page keeps at each rung of the ladder."""
STABILITY = -1
"""What `RESERVED` says in place of bytes to keep free where these are estimated."""
BROUGHT, FLOW = 3, 4
(TIER, LEVEL, SIZE, LAST, INSERTED, USES, FREQUENCY, PENDING, PLACE, PARENT, DEPTH, RECENT, LEFT) = range(13)
(CHILD, ELDER, YOUNGER) = range(13, 16)
PAGE_COLS = 16
"""tier (NONE: nowhere) · level: rungs compressed · size: bytes uncompressed · parent, depth: in the prefix
tree · last, inserted: clock · uses: since insertion · frequency: uses ever · recent: uses among the last
WINDOW accesses · left: clock of the last eviction, NONE if it counts no longer · pending: prefetched and not
used yet · place: in the heap, NONE if not there · child, elder, younger: the list of a block's resident
children, the youngest first. 16 columns are two cache lines."""
(NEXT, PREVIOUS, WHERE, MARK) = range(4)
(CAPACITY, USED, PEAK, HEAPED_PAGES, HAND, ASKED, CROSSED) = range(7)
WEIGHT = CROSSED + 4
TIER_COLS = WEIGHT + LISTS
"""capacity, used: the ledger, bytes · peak used · pages in the heap · hand of SIEVE · bytes up its link that
the request at hand waits for · crossed its link: up for demand and for prefetch, down for demand and for
prefetch · weight: bytes per list."""
(ONE_WAY, BOTH_WAYS, LATENCY, READ, WRITE, TARGET, INFLATION, QUIET) = range(2, 10)
"""of a tier's link, after the bytes under way up and down it: rates, fixed seconds · target of ARC ·
inflation of GDSF · seconds until the link has brought what was asked."""


class State(NamedTuple):
    """One replay in progress;

    `dynamics.advance` alone changes it. Few wide arrays: each one costs compile time.
    """

    settings: np.ndarray  # int64 [SETTINGS]
    counters: np.ndarray  # int64 [COUNTERS]
    clocks: np.ndarray  # float64 [CLOCKS]
    reals: np.ndarray  # float64 [4 + FLOW_SIZE] regret: weight, decay; compute per request, s; bytes it brought up; theory.flow
    page: np.ndarray  # int64 [P, PAGE_COLS]
    regret: np.ndarray  # float64 [P]
    kids: np.ndarray  # int64 [P, L] children resident per tier; [1, L] when not chained
    node: np.ndarray  # int64 [N + L * LISTS, 4] links of the lists, the list a node is in, its mark
    heap: np.ndarray  # int64 [L, 2, P] pages that could leave; their tie-break (heaps) or last access (scans)
    key: np.ndarray  # float64 [L, P] their keys at rest
    tiers: np.ndarray  # int64 [L, TIER_COLS]
    rates: np.ndarray  # float64 [L, 10]
    served: np.ndarray  # int64 [L + 1] accesses by tier, the last: nowhere
    held: np.ndarray  # int64 [L] pages on their way down
    ring: np.ndarray  # int64 [WINDOW] the last accesses
    follow: np.ndarray  # int64 [P, 2 * SUCCESSORS] successors and their counts; [1, ...] without prefetching
    density: (
        np.ndarray
    )  # float64 [3, CLASSES, AGES] return density; the returns and (age 0) the idle times it was learnt from
    sketch: np.ndarray  # uint8 [4, W]
    table: np.ndarray  # float64 [COMPUTE + depths + 1] per rung: loss, KL, seconds per byte; then recompute seconds, running sum
    row: np.ndarray  # float64 [CANDIDATE_COLS]
    latency: np.ndarray  # float64 [R] seconds per request
    hits: np.ndarray  # int64 [R] blocks found in the fastest tier


def kind_of(policy: str) -> int:
    """How the order of a policy is kept: lists, heaps of resting keys, or columns to scan."""
    if policy in QUEUES or policy in ("lru", "fifo"):
        return LISTED
    return SCANNED if policy in DRIFTS or policy == "random" else HEAPED


def new_state(
    trace: Trace,
    scenario: Scenario,
    policy: str,
    seed: int = 0,
    window: int = 32,
    regret: tuple = (6.0, 0.98, 0),
) -> State:
    """A replay before its first request.

    Args:
        window: accesses that `windowed_recency` looks back.
        regret: weight, decay and horizon in accesses (0: the pages the fastest tier holds) of `regret_aware`.

    Raises:
        HierarchyError: unknown policy, a page larger than a tier, a setting that does not fit the trace.
    """
    if policy not in POLICY_IDS:
        raise HierarchyError(f"unknown policy {policy!r}; use one of {', '.join(POLICIES)}")
    if scenario.promotion == "step" and trace.chained:
        raise HierarchyError(
            "promotion 'step' needs a plain page trace: a prefix is read as a whole; use promotion 'top'"
        )
    pages, tiers = trace.blocks, len(scenario.tiers)
    sizes = _sizes(trace, scenario)
    capacities = np.array([tier.capacity for tier in scenario.tiers], np.int64)
    fit = max(int(capacities[0] // max(sizes.mean(), 1)), 1)
    kind = kind_of(policy)
    settings = np.zeros(SETTINGS, np.int64)
    settings[[KIND, POLICY, CHAINED, WINDOW]] = kind, POLICY_IDS[policy], trace.chained, window
    settings[[HORIZON, SQUEEZE, MAX_PREFETCH]] = (
        regret[2] or fit,
        LADDER.index(scenario.squeeze),
        scenario.max_prefetch,
    )
    settings[KEPT : KEPT + len(LADDER)] = kept_parts(scenario)
    settings[PREFETCHING] = scenario.prefetch and policy == "predictive" and not trace.chained
    settings[[OVERLAP, RECOMPUTE, STEPWISE]] = (
        scenario.overlap,
        scenario.recompute,
        scenario.promotion == "step",
    )
    share = RESERVES[scenario.reserve]
    settings[RESERVED] = STABILITY if share < 0 else int(share * capacities[0])
    settings[SEED], settings[AGE_SHIFT] = seed, max(int(np.log2(max(fit * 16 / AGES, 1))), 0)
    parent = parents(trace) if trace.chained else np.empty(0, np.int64)
    depth = _depths(trace, parent) if trace.chained else np.zeros(1, np.int64)
    listed, ranked = (pages if kind == LISTED else 0), (pages if kind != LISTED else 0)
    sketch = 4 << int(np.ceil(np.log2(max(min(fit, pages), 16)))) if policy == "tinylfu" else 1
    settings[CLOSED] = trace.chained and policy not in TREELESS
    settings[STRIDE] = pages if policy in GHOSTED else 0
    nodes = (tiers if policy in GHOSTED else 1) * listed
    settings[NODES] = nodes
    page = np.zeros((pages, PAGE_COLS), np.int64)
    page[:, [TIER, LEFT, PLACE, CHILD, ELDER, YOUNGER]] = NONE
    page[:, SIZE] = sizes
    if trace.chained:
        page[:, PARENT], page[:, DEPTH] = parent, depth
    books = np.zeros((tiers, TIER_COLS), np.int64)
    books[:, CAPACITY], books[:, HAND] = capacities, NONE
    rates = np.zeros((tiers, QUIET + 1))
    rates[:, ONE_WAY : WRITE + 1] = [
        (t.link.one_way, t.link.both_ways, t.link.latency_s, t.read_s, t.write_s) for t in scenario.tiers
    ]
    state = State(
        settings=settings,
        counters=np.zeros(COUNTERS, np.int64),
        clocks=np.zeros(CLOCKS),
        reals=np.array([regret[0], regret[1], scenario.compute_s, 0.0, *new_flow()]),
        page=page,
        regret=np.zeros(pages),
        kids=np.zeros((pages if trace.chained else 1, tiers), np.int64),
        node=np.zeros((nodes + tiers * LISTS, 4), np.int64),
        heap=np.zeros((tiers, 2, ranked), np.int64),
        key=np.zeros((tiers, ranked)),
        tiers=books,
        rates=rates,
        served=np.zeros(tiers + 1, np.int64),
        held=np.full(tiers, NONE, np.int64),
        ring=np.full(window, NONE, np.int64),
        follow=np.zeros((pages if settings[PREFETCHING] else 1, 2 * SUCCESSORS), np.int64),
        density=np.zeros((3, CLASSES, AGES)),
        sketch=np.zeros((4, sketch), np.uint8),
        table=np.array(
            rung_table(scenario)
            + recompute_seconds(scenario.profile, trace.block_tokens, int(depth.max()) + 1)
        ),
        row=np.zeros(CANDIDATE_COLS),
        latency=np.zeros(trace.requests),
        hits=np.zeros(trace.requests, np.int64),
    )
    state.node[:nodes, WHERE] = NONE
    heads = np.arange(nodes, nodes + tiers * LISTS)
    state.node[heads, NEXT] = state.node[heads, PREVIOUS] = heads
    state.follow[:, :SUCCESSORS] = NONE
    state.density[0] = 1.0 / (1.0 + np.arange(AGES))
    state.counters[[BEFORE, ABOVE, LEAF]] = NONE
    return state


def kept_bytes(size, part):
    """Bytes of `size` at `part` 1024ths, rounded down, without overflow; plain Python on purpose, `sizes`
    compiles it.
    """
    return (size >> 10) * part + ((size & 1023) * part >> 10)


def kept_parts(scenario: Scenario) -> list[int]:
    """1024ths of its fp16 bytes that a page keeps at each rung, rounded up; a rung that was not measured
    keeps all.
    """
    schemes = scenario.calibrated.schemes
    return [int(np.ceil(schemes[name].multiplier * 1024)) if name in schemes else 1024 for name in LADDER]


def rung_table(scenario: Scenario) -> list[float]:
    """Per rung: published loss, KL, seconds to quantise and to restore a byte; the first rung is the
    footprint, whose bytes are those stored. Seconds to quantise are -1 where they follow from the bytes."""
    schemes = scenario.calibrated.schemes
    found = [schemes.get(name, schemes["fp16"]) for name in (scenario.footprint, *LADDER[1:])]
    stored = [found[0].multiplier, *(1.0 for _ in LADDER[1:])]
    losses = [PRECISIONS[name].loss[scenario.work_class] for name in LADDER]
    divergence = [scheme.kl or 0.0 for scheme in found]
    encode = [
        -1.0 if s.encode_s_per_byte is None else s.encode_s_per_byte / part
        for s, part in zip(found, stored, strict=True)
    ]
    decode = [s.decode_s_per_byte / part for s, part in zip(found, stored, strict=True)]
    return losses + divergence + encode + decode


def _sizes(trace: Trace, scenario: Scenario) -> np.ndarray:
    base = np.broadcast_to(np.asarray(trace.page_bytes, np.int64), trace.blocks)
    if not base.any():
        if scenario.squeeze != "fp16" or scenario.footprint != "fp16":
            raise HierarchyError(
                "the trace does not know the bytes of its blocks, precision cannot matter; give a model"
            )
        sizes = np.ones(trace.blocks, np.int64)
    else:
        sizes = np.maximum(
            (base * scenario.calibrated.scheme(scenario.footprint).multiplier).astype(np.int64), 1
        )
    smallest, largest = int(sizes.argmin()), int(sizes.argmax())
    if kept_bytes(sizes[smallest], kept_parts(scenario)[LADDER.index(scenario.squeeze)]) == 0:
        raise HierarchyError(
            f"page {smallest} has {sizes[smallest]} bytes, none at {scenario.squeeze}; use larger pages"
        )
    for tier in scenario.tiers:
        if sizes[largest] > tier.capacity:
            raise HierarchyError(
                f"page {largest} takes {sizes[largest]} bytes, tier {tier.name!r} holds {tier.capacity}; enlarge the tier, or "
                "use smaller pages or a lower precision"
            )
    return sizes


def _depths(trace: Trace, parent: np.ndarray) -> np.ndarray:
    """Blocks above each block."""
    first, block = expand(trace)
    depth = np.zeros(trace.blocks, np.int64)
    depth[block] = np.arange(len(block)) - np.repeat(first[:-1], np.diff(first))
    return depth


def check(state: State) -> None:
    """Compares the books with the pages: bytes per tier, places in the order, children, and that no page is
    kept twice.

    Raises:
        LedgerError: they differ: a bug in the engine, never the user's doing.
    """
    tier, pages = state.page[:, TIER], len(state.page)
    bytes_now = kept_bytes(state.page[:, SIZE], state.settings[KEPT + state.page[:, LEVEL]])
    ledger = state.tiers[:, : USED + 1]
    check_ledger(ledger, np.array([bytes_now[tier == t].sum() for t in range(len(ledger))]))
    if (ledger[:, USED] > ledger[:, CAPACITY]).any():
        raise LedgerError(f"a tier holds more than its capacity: {ledger.tolist()}")
    if state.settings[CLOSED]:
        _check_tree(state, tier)
    for t in range(len(ledger) if state.settings[KIND] != UNKEPT else 0):
        here = tier == t
        if state.settings[KIND] == LISTED:
            base = t * int(state.settings[STRIDE])
            where = state.node[base : base + pages, WHERE]
            kept = np.flatnonzero((where >= A) & (where <= C) & (here | (base > 0)))
        else:
            kept = np.sort(state.heap[t, 0, : state.tiers[t, HEAPED_PAGES]])
            here = here & (state.kids[:, t] == 0) if state.settings[CHAINED] else here
        if kept.tolist() != np.flatnonzero(here).tolist():
            raise LedgerError(
                f"tier {t}: {len(kept)} pages in its order, {here.sum()} pages that could leave it"
            )


def _check_tree(state: State, tier: np.ndarray) -> None:
    parent = state.page[:, PARENT]
    below = np.flatnonzero((parent >= 0) & (tier >= 0))
    kids = np.zeros_like(state.kids)
    np.add.at(kids, (parent[below], tier[below]), 1)
    above = tier[parent[below]]
    for block in below[(above < 0) | (above > tier[below])]:
        raise LedgerError(
            f"block {block} lies in tier {tier[block]}, its parent in {tier[parent[block]]}: children leave first"
        )
    if (kids != state.kids).any():
        raise LedgerError("the counts of resident children differ from the children that are resident")

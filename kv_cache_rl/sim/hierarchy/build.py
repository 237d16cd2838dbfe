"""The parts of a replay before its first request: settings, tiers, and the arrays of pages and requests."""

from typing import Any

import numpy as np

from kv_cache_rl.core.candidates import CANDIDATE_COLS, Column
from kv_cache_rl.core.numbers import whole_number
from kv_cache_rl.core.precision import LADDER, PRECISIONS
from kv_cache_rl.policies.rank import RANK_IDS, RANKS
from kv_cache_rl.sim.hierarchy.policies import order_of
from kv_cache_rl.sim.hierarchy.queues import QUEUE_IDS, QUEUES
from kv_cache_rl.sim.hierarchy.sizes import kept_parts
from kv_cache_rl.sim.hierarchy.spec import RESERVES, HierarchyError, Scenario
from kv_cache_rl.sim.hierarchy.state import (
    AGES,
    CLASSES,
    COUNTERS,
    ENTRY,
    FOLLOW,
    LISTS,
    MATCH,
    NODE,
    NONE,
    PAGE,
    RUNG,
    SETTINGS,
    STABILITY,
    TIER,
    Order,
    record,
    records,
)
from kv_cache_rl.sim.hierarchy.tournament import matches_for
from kv_cache_rl.sim.hierarchy.traces.trace import Trace, depths, parents
from kv_cache_rl.theory.flow import new_flow


def pages_that_fit(scenario: Scenario, sizes: np.ndarray) -> int:
    """Mean pages in the fastest tier, at least 1 and at most 2^62, from which on sums would leave 64 bits."""
    return min(max(int(scenario.tiers[0].capacity // max(sizes.mean(), 1)), 1), 2**62)


def settings_of(
    trace: Trace, scenario: Scenario, policy: str, fit: int, seed: int, window: int, regret: tuple
) -> np.record:
    """What holds for a whole replay; `fit` pages are in the fastest tier."""
    settings = record(SETTINGS)
    _set_policy(settings, trace, scenario, policy)
    settings.seed = whole_number("seed", seed, -(2**63), 2**63 - 1, HierarchyError)
    settings.window = whole_number("window", window, 0, 2**31, HierarchyError) if settings.window else 0
    settings.regret_weight, settings.regret_decay, settings.horizon = regret[0], regret[1], regret[2] or fit
    settings.age_shift = max(int(np.log2(max(fit * 16 / AGES, 1))), 0)
    settings.chained, settings.compute_s = trace.chained, scenario.compute_s
    settings.squeeze_level, settings.overlap = LADDER.index(scenario.squeeze), scenario.overlap
    settings.recompute, settings.stepwise = scenario.recompute, scenario.promotion == "step"
    share = RESERVES[scenario.reserve]
    settings.reserved = STABILITY if share < 0 else int(share * scenario.tiers[0].capacity)
    return settings


def _set_policy(settings: np.record, trace: Trace, scenario: Scenario, policy: str) -> None:
    """What the registries say about a policy."""
    queue, rank = QUEUES.get(policy), RANKS.get(policy)
    settings.order = order_of(policy)
    settings.rank, settings.queue = RANK_IDS.get(policy, NONE), QUEUE_IDS.get(policy, NONE)
    settings.closed = trace.chained and (queue is None or queue.closed)
    if rank is not None:
        settings.window, settings.regrets = Column.RECENT_USES in rank.needs, Column.REGRET in rank.needs
        settings.returns, settings.draws = Column.RETURNS in rank.needs, Column.DRAW in rank.needs
        settings.inflates = rank.inflates
        settings.prefetching = scenario.prefetch and rank.prefetches and not trace.chained
        settings.max_prefetch = scenario.max_prefetch
    if queue is not None:
        settings.stride = trace.blocks if queue.ghosts else 0
        settings.nodes = trace.blocks * (len(scenario.tiers) if queue.ghosts else 1)


def tiers_of(scenario: Scenario) -> np.recarray:
    """The empty tiers and their links at rest, TIER [T]."""
    tiers = records(TIER, len(scenario.tiers))
    tiers["hand"], tiers["coming_from"] = NONE, NONE
    for t, tier in enumerate(scenario.tiers):
        at = tiers[t]
        at.capacity, at.read, at.write = tier.capacity, tier.read_s, tier.write_s
        at.one_way, at.both_ways, at.latency = tier.link.one_way, tier.link.both_ways, tier.link.latency_s
    return tiers


def rungs_of(scenario: Scenario) -> np.recarray:
    """What each precision of the ladder keeps, loses and takes, RUNG [len(LADDER)].

    The first rung is the footprint, whose bytes are those stored. Precisions not measured are as fp16.
    """
    schemes = scenario.calibrated.schemes
    found = [schemes.get(name, schemes["fp16"]) for name in (scenario.footprint, *LADDER[1:])]
    stored = [found[0].multiplier, *(1.0 for _ in LADDER[1:])]
    rungs = records(RUNG, len(LADDER))
    rungs["kept"] = kept_parts(scenario)
    rungs["loss"] = [PRECISIONS[name].loss[scenario.work_class] for name in LADDER]
    rungs["kl"] = [scheme.kl or 0.0 for scheme in found]
    rungs["encode"] = [
        -1.0 if scheme.encode_s_per_byte is None else scheme.encode_s_per_byte / part
        for scheme, part in zip(found, stored, strict=True)
    ]
    rungs["decode"] = [scheme.decode_s_per_byte / part for scheme, part in zip(found, stored, strict=True)]
    return rungs


def arrays_of(trace: Trace, tiers: int, policy: str, settings: np.record, fit: int) -> dict[str, Any]:
    """The fields of `State` besides pages and records: the order, what is remembered, results."""
    pages = trace.blocks
    follow = records(FOLLOW, pages if settings.prefetching else 1)
    follow["successor"] = NONE
    return {
        "served": np.zeros(tiers + 1, np.int64),
        "held": np.full(tiers, NONE, np.int64),
        "node": lists_of(int(settings.nodes), tiers),
        **ranked(pages, tiers, settings),
        "kids": np.zeros((pages if trace.chained else 1, tiers), np.int64),
        "follow": follow,
        "sketch": sketch_of(policy, min(fit, pages)),
        "flow": new_flow(),
        "latency": np.zeros(trace.requests),
        "hits": np.zeros(trace.requests, np.int64),
    }


def ranked(
    pages: int, tiers: int, settings: np.record, entry: np.dtype = ENTRY, match: np.dtype = MATCH
) -> dict[str, Any]:
    """The fields of `State` that ranks need: the order, and what is remembered of accesses."""
    entries = 0 if settings.order == Order.LISTED else pages
    matches = matches_for(pages) if settings.order == Order.MATCHED else 0
    return {
        "heap": records(entry, (tiers, entries)),
        "use_class": np.zeros((tiers, entries if settings.returns else 0), np.uint8),
        "match": records(match, (tiers, matches)),
        "regret": np.zeros(pages),
        "ring": np.full(settings.window, NONE, np.int64),
        "hazard": np.tile(1.0 / (1.0 + np.arange(AGES)), (CLASSES, 1)),
        "returned": np.zeros((CLASSES, AGES)),
        "accessed": np.zeros(CLASSES),
        "row": np.zeros(CANDIDATE_COLS),
    }


def sketch_of(policy: str, pages: int) -> np.ndarray:
    """The counts of a policy that keeps some, for a tier of so many pages, uint8 [4, W]."""
    sketched = policy in QUEUES and QUEUES[policy].sketch
    return np.zeros((4, 4 << int(np.ceil(np.log2(max(pages, 16)))) if sketched else 1), np.uint8)


def pages_of(trace: Trace, sizes: np.ndarray) -> np.recarray:
    """The pages, none of which is anywhere yet, PAGE [P]."""
    page = records(PAGE, trace.blocks)
    for name in ("tier", "left_at", "place", "child", "elder", "younger"):
        page[name] = NONE
    page["full_bytes"] = sizes
    page["parent"] = parents(trace)
    if trace.chained:
        page["depth"] = depths(trace)
    if trace.writes is not None:
        counts = np.diff(trace.writes.first)
        behind = np.arange(len(trace.writes.block)) - np.repeat(trace.writes.first[:-1], counts)
        page["depth"][trace.writes.block] = np.repeat(trace.writes.base, counts) + behind
    return page


def lists_of(count: int, tiers: int, kind: np.dtype = NODE) -> np.recarray:
    """Nodes that are in no list, and after them the heads of empty lists."""
    node = records(kind, count + tiers * LISTS)
    heads = np.arange(count, len(node))
    node["list"][:count] = NONE
    node["next"][heads] = node["previous"][heads] = heads
    return node


def counters_of() -> np.record:
    """Counters of a replay that has not begun."""
    counters = record(COUNTERS)
    counters.previous = counters.named = counters.leaf = NONE
    return counters

"""Held-out comparison: tuned on one half of the sessions, measured on the other, where policies can differ.

* Capacities lie on the steep part of the exact LRU curve: where it has come 20 to 80 % of the way to that of
  an infinite cache.
* Sessions that are near-duplicates stay together. Two sessions are in one cluster if they share a block that
  few others use (a system prompt that all sessions use joins none), or if their first requests have the same
  lengths to the token. Ids that mean something only inside a session, as in Claude Code traces, leave only
  the lengths to compare.
* Clusters are dealt into two halves of about as many accesses. Every policy sees the same halves for the same
  seed.
* Intervals come from a bootstrap over clusters, paired: the same resamples for both sides of a difference.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kv_cache_rl.core.numbers import whole_number
from kv_cache_rl.experiments.hierarchy.settings import in_blocks
from kv_cache_rl.intervals import (
    BOOTSTRAP_INTERVAL,
    RESAMPLES,
    Interval,
    draws,
    resampled_difference,
    resampled_rate,
    totals,
)
from kv_cache_rl.jit import njit
from kv_cache_rl.sim.hierarchy.curves.bound import bound_name, min_hits
from kv_cache_rl.sim.hierarchy.curves.runs import Curve, lru_curve
from kv_cache_rl.sim.hierarchy.dynamics import STATE_BYTES
from kv_cache_rl.sim.hierarchy.engine import run
from kv_cache_rl.sim.hierarchy.spec import HierarchyError, one_tier
from kv_cache_rl.sim.hierarchy.traces.segments import check_room
from kv_cache_rl.sim.hierarchy.traces.trace import Trace, subset

LEVELS = (0.2, 0.4, 0.6, 0.8)
"""How far up the curve: shares of the infinite cache's hit rate."""
SIGNATURE = 3
"""First requests of a session whose lengths, all equal, make two sessions near-duplicates."""
FEW, FEW_SHARE = 8, 0.02
"""A block joins sessions if at most so many, or this share of them, use it."""
BASE = "lru"
GRID: dict[str, tuple[Mapping, ...]] = {
    "windowed_recency": tuple({"window": window} for window in (32, 256, 2048)),
    "regret_aware": tuple({"regret": (weight, 0.98, 0)} for weight in (1.0, 6.0, 12.0)),
}
"""Policy -> the tunings that are tried; all others have nothing to tune."""


@dataclass(frozen=True, slots=True)
class Steep:
    """A capacity on the steep part of a curve."""

    capacity: int
    level: float
    hit_rate: float
    per_doubling: float
    """By how much the hit rate rises when this capacity is doubled."""


def steep_capacities(curve: Curve, levels: Sequence[float] = LEVELS) -> list[Steep]:
    """The smallest capacities at which the hit rate has come so far from 0 (cold) to that of an infinite
    cache.

    Raises:
        HierarchyError: nothing is ever used again, so that no capacity matters.
    """
    top = float(curve.hit_rate[-1])
    if top <= 0:
        raise HierarchyError(
            "no block is used twice: no capacity and no policy makes a difference; give another trace"
        )
    found = {}
    for level in levels:
        at = int(np.searchsorted(curve.hit_rate, level * top))
        capacity = max(int(curve.capacities[at]), 1)
        rise = curve.at(2 * capacity) - curve.at(capacity)
        found.setdefault(capacity, Steep(capacity, level, curve.at(capacity), rise))
    return list(found.values())


def clusters(trace: Trace) -> np.ndarray:
    """Number of the cluster of each sequence, int64 [sequences]; near-duplicates have the same."""
    count = int(trace.sequence.max()) + 1
    limit = max(FEW, int(FEW_SHARE * count))
    root = np.arange(count)
    if trace.chained:
        _join_by_blocks(
            trace.first_run, trace.run_start, trace.run_length, trace.sequence, trace.blocks, limit, root
        )
    leading: dict[tuple, int] = {}
    for sequence, lengths in enumerate(_first_lengths(trace, count)):
        # Fewer requests are too little to tell by: many a session begins with a question of 100 tokens.
        if len(lengths) == SIGNATURE:
            _join(root, leading.setdefault(tuple(lengths), sequence), sequence)
    return np.unique([_find(root, sequence) for sequence in range(count)], return_inverse=True)[1].reshape(-1)


def _first_lengths(trace: Trace, count: int) -> list[list[int]]:
    """Tokens (blocks where tokens are unknown) of the first SIGNATURE requests of each sequence."""
    sizes = trace.input_tokens if trace.input_tokens.any() else trace.lengths
    firsts: list[list[int]] = [[] for _ in range(count)]
    for sequence, size in zip(trace.sequence.tolist(), sizes.tolist(), strict=True):
        if len(firsts[sequence]) < SIGNATURE:
            firsts[sequence].append(size)
    return firsts


@njit
def _find(root, sequence):
    while root[sequence] != sequence:
        root[sequence] = root[root[sequence]]
        sequence = root[sequence]
    return sequence


@njit
def _join(root, a, b):
    a, b = _find(root, a), _find(root, b)
    root[max(a, b)] = min(a, b)


@njit
def _join_by_blocks(first_run, run_start, run_length, sequence, blocks, limit, root):
    users = np.zeros(blocks, np.int32)
    latest = np.full(blocks, -1, np.int64)
    for counting in (True, False):
        for request in range(len(sequence)):
            for run_at in range(first_run[request], first_run[request + 1]):
                for block in range(run_start[run_at], run_start[run_at] + run_length[run_at]):
                    before = latest[block]
                    if before == sequence[request]:
                        continue
                    # A block that two sessions use by turns counts more than twice, and joins them less.
                    if counting:
                        users[block] += 1
                    elif before >= 0 and users[block] <= limit:
                        _join(root, before, sequence[request])
                    latest[block] = sequence[request]
        latest[:] = -1


def halves(trace: Trace, cluster: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Requests of the tuning half and of the other, bool [R] each: whole clusters, dealt at random to the
    half with less.

    Raises:
        HierarchyError: there is one session, or all are one cluster.
    """
    whole_number("seed", seed, 0, error=HierarchyError)
    if len(cluster) < 2:
        raise HierarchyError(
            f"all requests of {trace.name} are one session: there is nothing to hold out; give a trace whose "
            "requests name their sessions"
        )
    count = int(cluster.max()) + 1
    if count < 2:
        raise HierarchyError(
            "all sessions are near-duplicates of each other: there is nothing to hold out; give more sessions"
        )
    size = np.bincount(cluster[trace.sequence], trace.lengths, count)
    tuned, load = np.zeros(count, bool), [0.0, 0.0]
    for one in np.random.default_rng(seed).permutation(count):
        tuned[one] = load[0] <= load[1]
        load[0 if tuned[one] else 1] += size[one]
    mine = tuned[cluster[trace.sequence]]
    return mine, ~mine


@dataclass(frozen=True, slots=True)
class Compared:
    """A policy at a capacity, on sessions it was not tuned on."""

    policy: str
    capacity: int
    level: float
    tuning: tuple[dict, ...]
    """Chosen on the tuning half, for each seed."""
    hit_rate: Interval
    against_lru: Interval
    bound: str
    bound_hit_rate: float
    regret_to_bound: float

    def to_json(self) -> dict:
        names = ("policy", "capacity", "level", "bound", "bound_hit_rate", "regret_to_bound")
        intervals = {"hit_rate": self.hit_rate.to_json(), "against_lru": self.against_lru.to_json()}
        return {**{name: getattr(self, name) for name in names}, "tuning": list(self.tuning), **intervals}


def held_out(
    trace: Trace,
    policies: Sequence[str],
    levels: Sequence[float] = LEVELS,
    seeds: Sequence[int] = (0, 1, 2),
    resamples: int = RESAMPLES,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict:
    """Hit rates of the policies in one tier, on held-out sessions, at capacities on the steep part of the
    held-out half's curve.

    Returns:
        ``interval`` (what the intervals are), ``sequences``, ``clusters``, ``capacities`` (of each seed) and
        ``rows`` (`Compared`, by level and policy). A row's capacity is that of the first seed's half.
    """
    whole = in_blocks(trace)
    check_room(trace.name, trace.blocks, STATE_BYTES * trace.blocks, "replaying them one by one")
    cluster = clusters(whole)
    names = list(dict.fromkeys((BASE, *policies)))
    splits = [_Split(whole, cluster, levels, seed, resamples) for seed in seeds]
    total, done = len(seeds) * len(levels) * len(names), 0
    rows = []
    for number, level in enumerate(levels):
        found: dict[str, list[tuple[np.ndarray, dict]]] = {name: [] for name in names}
        for split in splits:
            for name in names:
                found[name].append(split.evaluate(name, split.steep[number].capacity))
                done += 1
                progress(done, total)
        rows += [_compared(name, level, number, found, splits) for name in names]
    return {
        "interval": BOOTSTRAP_INTERVAL,
        "sequences": len(cluster),
        "clusters": int(cluster.max()) + 1,
        "seeds": list(seeds),
        "capacities": [[steep.capacity for steep in split.steep] for split in splits],
        "rows": rows,
    }


class _Split:
    """One way to halve the sessions: the halves, the capacities that are steep for the held-out one, its
    resamples.
    """

    def __init__(
        self, trace: Trace, cluster: np.ndarray, levels: Sequence[float], seed: int, resamples: int
    ) -> None:
        tuned, held = halves(trace, cluster, seed)
        self.seed, self.tuned, self.held = seed, subset(trace, tuned), subset(trace, held)
        self.cluster = cluster[np.unique(trace.sequence[held])]
        curve = lru_curve(self.held)
        self.steep = [steep_capacities(curve, [level])[0] for level in levels]
        self.accesses = totals(self.cluster, np.bincount(self.held.sequence, self.held.lengths))
        self.weights = draws(len(self.accesses), resamples, seed)

    def evaluate(self, policy: str, capacity: int) -> tuple[np.ndarray, dict]:
        """(hits by cluster on the held-out half, tuning chosen on the other)."""
        scenario, grid = one_tier(capacity), GRID.get(policy, ({},))
        tuning = grid[0]
        if len(grid) > 1:
            rates = [
                run(self.tuned, scenario, policy, self.seed, **tried).metrics["hit_rate"] for tried in grid
            ]
            tuning = grid[int(np.argmax(rates))]
        hits = run(self.held, scenario, policy, self.seed, **tuning).by_sequence()["hits"]
        return totals(self.cluster, hits), dict(tuning)

    def bound(self, number: int) -> float:
        return min_hits(self.held, self.steep[number].capacity) / self.held.accesses


def _compared(name: str, level: float, number: int, found: dict, splits: Sequence[_Split]) -> Compared:
    weights, accesses = [split.weights for split in splits], [split.accesses for split in splits]
    ours, base = [hits for hits, _ in found[name]], [hits for hits, _ in found[BASE]]
    measured = resampled_rate(weights, ours, accesses)
    bound = float(np.mean([split.bound(number) for split in splits]))
    return Compared(
        policy=name,
        capacity=splits[0].steep[number].capacity,
        level=level,
        tuning=tuple(tuning for _, tuning in found[name]),
        hit_rate=measured,
        against_lru=resampled_difference(weights, ours, base, accesses),
        bound=bound_name(splits[0].held),
        bound_hit_rate=bound,
        regret_to_bound=bound - measured.mean,
    )

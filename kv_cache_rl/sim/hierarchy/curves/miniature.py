"""The hit rate of any policy from a sample of the blocks, replayed in a cache smaller by the same rate.

    blocks    0 1 2 3 4 5 6 7 8 9 ...      a hash of its id says whether a block is in the sample (`sampled`)
    sample        2       6   8   ...      path 0 1 2 3 6 becomes 2 6; room for 1,000 blocks becomes room
                                           for 1,000 x rate

A policy in the small cache meets what it meets in the large one: blocks as hot, as far apart for its room. So
one replay costs the rate of the whole. As in SHARDS, the accesses by which a sample has more or fewer than
rate x all are counted as hits: a few hot blocks decide them.

The expected error has two sources. Parts of the sample differ among themselves, which is chance. And all of
them may differ from the whole sample, which has four times their rate: a policy with constants that count
accesses is another policy in a smaller cache. The larger of the two is given.

Source: Waldspurger, Saemundsson, Ahmad, Park, "Cache modeling and optimization using miniature simulations",
USENIX ATC 2017.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from kv_cache_rl.core.numbers import whole_number
from kv_cache_rl.jit import njit
from kv_cache_rl.sim.hierarchy.curves.sampled import GROUPS, hashed
from kv_cache_rl.sim.hierarchy.engine import run
from kv_cache_rl.sim.hierarchy.spec import HierarchyError, one_tier
from kv_cache_rl.sim.hierarchy.traces.trace import ROOT, Trace, Writes


@dataclass(frozen=True, slots=True)
class Sample:
    """A part of a trace's blocks, and the accesses to them."""

    trace: Trace
    """Its blocks alike, numbered anew."""
    rate: float
    """Blocks of it, of all."""
    expected: float
    """Accesses that such a part has on average."""


def samples(trace: Trace, rate: float, seed: int = 0) -> tuple[Sample, ...]:
    """A sample of the blocks, and after it the GROUPS parts that it is made of.

    Raises:
        HierarchyError: the rate is not in (0, 1), or a part would have no accesses.
    """
    if not 0 < rate < 1:
        raise HierarchyError(f"the sampling rate is {rate}; give a number between 0 and 1")
    whole_number("seed", seed)
    place = hashed(np.arange(trace.blocks), seed) / 2.0**64 / rate
    edges = [(0.0, 1.0), *((group / GROUPS, (group + 1) / GROUPS) for group in range(GROUPS))]
    found = []
    for low, high in edges:
        share = (high - low) * rate
        thin = thinned(trace, (place >= low) & (place < high), share)
        if thin is None or not thin.accesses:
            raise HierarchyError(
                f"a rate of {rate:g} leaves a part of the sample without accesses: {trace.name!r} has "
                f"{trace.blocks:,} blocks; give a higher one"
            )
        found.append(Sample(thin, share, trace.accesses * share))
    return tuple(found)


def estimated(parts: tuple[Sample, ...], policy: str, capacity: int, seed: int = 0) -> tuple[float, float]:
    """The hit rate of a policy with room for `capacity` blocks of the whole trace, and its expected error.

    Raises:
        HierarchyError: the sample has room for less than a block.
    """
    if capacity * parts[0].rate < 1:
        raise HierarchyError(
            f"of {capacity:,} blocks a sample of {parts[0].rate:g} holds less than one; give a higher rate, "
            f"or capacities from {math.ceil(1 / parts[0].rate):,} blocks on"
        )
    whole, *others = (_hit_rate(part, policy, capacity, seed) for part in parts)
    chance = float(np.std(others, ddof=1)) / math.sqrt(GROUPS) * math.sqrt(2 / math.pi)
    return whole, max(chance, abs(float(np.mean(others)) - whole))


def _hit_rate(part: Sample, policy: str, capacity: int, seed: int) -> float:
    found = run(part.trace, one_tier(max(round(capacity * part.rate), 1)), policy, seed=seed).metrics
    hits = found["accesses"] - found["miss_count"] + part.expected - found["accesses"]
    return min(max(hits / part.expected, 0.0), 1.0)


def thinned(trace: Trace, inside: np.ndarray, rate: float) -> Trace | None:
    """The trace of the blocks where `inside` is True, numbered anew in their order; None: none is accessed.

    The requests of a prefix-tree trace all stay, some without a block.
    """
    number = np.concatenate([[0], np.cumsum(inside)])
    start = number[trace.run_start]
    length = number[trace.run_start + trace.run_length] - start
    filled = length > 0
    if not filled.any():
        return None
    until = np.concatenate([[0], np.cumsum(filled)])
    first_run = until[trace.first_run]
    keep = np.full(trace.requests, True) if trace.chained else filled
    return replace(
        trace,
        time_s=trace.time_s[keep],
        sequence=trace.sequence[keep],
        first_run=first_run if trace.chained else np.arange(int(filled.sum()) + 1),
        run_start=start[filled],
        run_length=length[filled],
        blocks=int(number[-1]),
        page_bytes=0,
        input_tokens=trace.input_tokens[keep],
        output_tokens=trace.output_tokens[keep],
        ends=trace.ends[keep],
        writes=None if trace.writes is None else _thinned_writes(trace, trace.writes, number, rate),
        warm_up=int(keep[: trace.warm_up].sum()),
    )


def _thinned_writes(trace: Trace, writes: Writes, number: np.ndarray, rate: float) -> Writes:
    """What decoding wrote of a sample, whose blocks `number` counts; room needed besides is so much less."""
    paths = trace.first_run, trace.run_start, trace.run_length
    first, block, parent, base = _written(*paths, writes.first, writes.block, writes.base, number)
    room = np.rint(writes.room * rate).astype(np.int64)
    return Writes(first, block, parent, base, int(number[writes.named]), room)


@njit
def _written(first_run, run_start, run_length, first, block, base, number):
    """(first, block, parent, base) of the writes that are in the sample."""
    requests = len(base)
    begins, bases = np.zeros(requests + 1, np.int64), np.zeros(requests, np.int64)
    blocks, parent = np.empty(len(block), np.int64), np.empty(len(block), np.int64)
    count = 0
    for r in range(requests):
        before, left = ROOT, base[r]
        for k in range(first_run[r], first_run[r + 1]):
            begin, length = run_start[k], min(run_length[k], left)
            left -= length
            found = number[begin + length] - number[begin]
            if found > 0:
                bases[r] += found
                before = number[begin + length] - 1
        for one in range(first[r], first[r + 1]):
            p = block[one]
            if number[p + 1] > number[p]:
                blocks[count], parent[count] = number[p], before
                before = number[p]
                count += 1
        begins[r + 1] = count
    return begins, blocks[:count].copy(), parent[:count].copy(), bases

"""The LRU miss-ratio curve from a sample of the blocks, with the error it is expected to have.

SHARDS at a fixed rate: a block is in the sample if a hash of its id falls below the rate. Then all
its accesses are, and a rank among sampled blocks stands for a rank 1 / rate times as large. The
sample rarely holds exactly rate x accesses, because a few hot blocks decide its size. So the
difference is counted at the smallest rank (SHARDS-adj).

Prefix-tree traces are sampled by block as well. Under LRU a block hits if its own rank is within
the capacity, the resident part is still a prefix (see `runs`), and the sampled blocks of a run are
a run of the sample's ids. Sampling whole sequences would be wrong: a block competes above all with
its own sequence, which would always be in the sample and yet be scaled.

Source: Waldspurger et al., "Efficient MRC construction with SHARDS", FAST 2015.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from kv_cache_rl.core.draws import WEYL, mixed
from kv_cache_rl.core.numbers import whole_number
from kv_cache_rl.sim.hierarchy.curves.runs import Curve, pieces_of, ranks_of
from kv_cache_rl.sim.hierarchy.curves.touches import Touches, touches
from kv_cache_rl.sim.hierarchy.traces.trace import Trace

GROUPS = 4  # parts of the sample, each a sample too; their curves show how far the whole may be off
GRID = 100  # capacities, evenly spaced up to all blocks, of a mean error. Source: SHARDS, section 5


def sampled_curve(trace: Trace, rate: float = 0.01, seed: int = 0) -> Curve:
    """The estimated hit rate of LRU at the capacities that the sample tells apart; `error` is its expected
    mean absolute error.

    Raises ValueError if the rate is not in (0, 1] or so low that nothing is sampled.
    """
    if not 0 < rate <= 1:
        raise ValueError(f"the sampling rate is {rate}; give a number above 0, at most 1")
    whole_number("seed", seed)
    place = hashed(np.arange(trace.blocks), seed) / 2.0**64
    if not (place < rate).any():
        raise ValueError(f"a rate of {rate} samples none of {trace.blocks} blocks; give a higher one")
    rows = touches(trace)
    curve = _estimate(rows, place < rate, rate)
    if rate == 1:
        return curve
    grid = np.linspace(0, trace.blocks, GRID + 1)[1:]
    parts = []
    for group in range(GROUPS):
        inside = (place >= rate * group / GROUPS) & (place < rate * (group + 1) / GROUPS)
        part = _estimate(rows, inside, rate / GROUPS)
        parts.append([part.at(int(capacity)) for capacity in grid])
    spread = np.std(parts, axis=0, ddof=1) / math.sqrt(GROUPS)
    # Times the mean absolute value of a normal deviate.
    return replace(curve, error=float(spread.mean()) * math.sqrt(2 / math.pi))


def mean_error(curve: Curve, exact: Curve) -> float:
    """Mean absolute difference of two hit rates over GRID capacities up to the exact curve's largest."""
    grid = np.linspace(0, exact.capacities[-1], GRID + 1)[1:].astype(np.int64)
    return float(np.mean([abs(curve.at(int(capacity)) - exact.at(int(capacity))) for capacity in grid]))


def hashed(numbers: np.ndarray, seed: int) -> np.ndarray:
    """64 well-mixed bits for each number, uint64 [n]."""
    return mixed(numbers.astype(np.uint64) + np.uint64((seed * 0xD1342543DE82EF95 + int(WEYL)) % 2**64))


def _estimate(rows: Touches, inside: np.ndarray, rate: float) -> Curve:
    thin = _thinned(rows, inside)
    accesses = rows.accesses
    expected = accesses * rate
    ranks = ranks_of(pieces_of(thin), thin.blocks).astype(np.float64) if thin is not None else np.zeros(2)
    ranks = np.append(ranks, 0.0) if len(ranks) < 2 else ranks
    ranks[1] += expected - (thin.accesses if thin is not None else 0)
    capacities = np.minimum(np.ceil(np.arange(len(ranks)) / rate), rows.blocks).astype(np.int64)
    rates = np.clip(np.cumsum(ranks) / expected, 0.0, 1.0)
    name = "lru" if rate == 1 else f"lru, {rate:g} of the blocks sampled"
    return Curve(name, capacities, rates, accesses)


def _thinned(rows: Touches, inside: np.ndarray) -> Touches | None:
    """The rows of the blocks where `inside` is True, numbered anew in their order;

    None if none of them is used.
    """
    number = np.concatenate([[0], np.cumsum(inside)])
    start = number[rows.run_start]
    length = number[rows.run_start + rows.run_length] - start
    filled = length > 0
    until = np.concatenate([[0], np.cumsum(filled)])
    runs = until[rows.first_run[1:]] - until[rows.first_run[:-1]]
    keep = runs > 0
    if not keep.any():
        return None
    first_run = np.concatenate([[0], np.cumsum(runs[keep])])
    kept = start[filled], length[filled], int(number[-1])
    return Touches(first_run, *kept, rows.request[keep], rows.counted[keep])

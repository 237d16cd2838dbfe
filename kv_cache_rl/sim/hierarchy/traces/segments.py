"""Ids cut where any run begins or ends, so that work and memory grow with the runs and not with the blocks.

run          |=================|
another            |=====================|
segments     |=====|===========|=========|      a run is a whole number of segments
"""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from kv_cache_rl.traces.errors import TraceError

SMALL = 10**9
"""Bytes that any machine is taken to have."""


class Segments(NamedTuple):
    """Consecutive ranges of ids, S in all."""

    edges: np.ndarray  # int64 [S + 1], segment s is the ids from edges[s] up to edges[s + 1]
    start: np.ndarray  # int64 [N], first segment of each run
    length: np.ndarray  # int64 [N], segments of each run


def segments(
    run_start: np.ndarray, run_length: np.ndarray, blocks: int, ends: np.ndarray | None = None
) -> Segments:
    """The segments of these runs, where `ends` are given also cut behind these ids; every block is one where
    that is no more work.
    """
    if 2 * len(run_start) >= blocks:
        return Segments(np.arange(blocks + 1), run_start, run_length)
    end = run_start + run_length
    cuts = [] if ends is None else [ends + 1]
    edges = np.unique(np.concatenate([run_start, end, *cuts]))
    start = np.searchsorted(edges, run_start)
    return Segments(edges, start, np.searchsorted(edges, end) - start)


def check_room(name: str, blocks: int, need: int, what: str) -> None:
    """Raises TraceError if columns with an entry per block cannot be held in memory.

    Args:
        need: bytes.
        what: needs them.
    """
    free = free_bytes() if need > SMALL else need
    if need > free:
        raise TraceError(
            f"{blocks:,} blocks: {what} takes {need / 1e9:,.1f} GB, of which {free / 1e9:,.1f} GB are free",
            path=name,
            remedy="count hits of lru and belady in one tier of blocks, which goes by runs (hierarchy replay "
            "--policy lru,belady --capacity BLOCKS), or write the trace with larger blocks",
        )


def free_bytes() -> int:
    """Memory that is free on this machine; where that is not told, as much as anything needs."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError, IndexError):
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError, AttributeError):
            return 2**63

"""What touches the blocks of a trace, one path a row: requests and, behind each, what its decoding wrote.

A row of writes is the path from the root to the last block written. Its request has just touched the first
part of it, so that only the written blocks are new. It finds nothing that counts: hits are those of requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kv_cache_rl.jit import njit
from kv_cache_rl.sim.hierarchy.traces.trace import Trace


@dataclass(frozen=True, slots=True)
class Touches:
    """N rows as runs of consecutive blocks, as in Trace."""

    first_run: np.ndarray  # int64 [N + 1]
    run_start: np.ndarray  # int64
    run_length: np.ndarray  # int64
    blocks: int
    request: np.ndarray  # int64 [N]
    counted: np.ndarray  # bool [N], False where the row is one of writes, or of the warm-up

    @property
    def lengths(self) -> np.ndarray:
        """Blocks of each row, int64 [N]."""
        until = np.concatenate([[0], np.cumsum(self.run_length)])
        return until[self.first_run[1:]] - until[self.first_run[:-1]]

    @property
    def accesses(self) -> int:
        """Blocks of the rows that count."""
        return int(self.lengths[self.counted].sum())


def touches(trace: Trace) -> Touches:
    """The rows of a trace, in order."""
    runs = trace.first_run, trace.run_start, trace.run_length
    if trace.writes is None:
        every = np.arange(trace.requests)
        return Touches(*runs, trace.blocks, every, every >= trace.warm_up)
    found = trace.writes
    rows = _rows(*runs, found.first, found.block, found.base)
    first_run, run_start, run_length, request, counted = rows
    counts = counted & (request >= trace.warm_up)
    return Touches(first_run, run_start, run_length, trace.blocks, request, counts)


@njit
def _rows(first_run, run_start, run_length, first, written, base):
    """(first_run, run_start, run_length, request, counted), a row behind each request that wrote."""
    requests = len(base)
    rows = requests + np.count_nonzero(first[1:] > first[:-1])
    first_row = np.zeros(rows + 1, np.int64)
    request = np.empty(rows, np.int64)
    counted = np.ones(rows, np.bool_)
    start = np.empty(2 * len(run_start) + len(written), np.int64)
    length = np.empty(len(start), np.int64)
    row = at = 0
    for r in range(requests):
        own = at
        for run in range(first_run[r], first_run[r + 1]):
            start[at], length[at] = run_start[run], run_length[run]
            at += 1
        request[row] = r
        row += 1
        first_row[row] = at
        if first[r] == first[r + 1]:
            continue
        left, begin = base[r], at
        for run in range(own, first_row[row]):
            if left > 0:
                start[at], length[at] = start[run], min(length[run], left)
                left -= length[at]
                at += 1
        for one in range(first[r], first[r + 1]):
            if at > begin and written[one] == start[at - 1] + length[at - 1]:
                length[at - 1] += 1
            else:
                start[at], length[at] = written[one], 1
                at += 1
        request[row], counted[row] = r, False
        row += 1
        first_row[row] = at
    return first_row, start[:at].copy(), length[:at].copy(), request, counted

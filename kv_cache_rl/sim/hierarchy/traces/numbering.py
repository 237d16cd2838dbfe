"""Ids of trace files numbered densely, and requests cut into runs of consecutive ids."""

from __future__ import annotations

import numpy as np


def dense_ids(ids: np.ndarray) -> tuple[np.ndarray, int]:
    """The ids numbered from 0 in order of first appearance, so that what was new together is consecutive; and
    how many.
    """
    _, first_at, inverse = np.unique(ids, return_index=True, return_inverse=True)
    number = np.empty(len(first_at), np.int64)
    number[np.argsort(first_at)] = np.arange(len(first_at))
    return number[inverse.reshape(-1)], len(first_at)


def dense_runs(start: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, int]:
    """The runs' starts after dropping ids that no run holds, the order of ids unchanged; and how many ids are
    left.
    """
    if not len(start):
        return start.copy(), 0
    order = np.argsort(start, kind="stable")
    first, last = start[order], (start + (length - 1))[order]
    reach = np.maximum.accumulate(last)
    gap = np.concatenate([[True], first[1:] - 1 > reach[:-1]])  # first - 1 cannot overflow, reach + 1 can
    begin = first[gap]
    more = (
        reach[np.append(np.flatnonzero(gap)[1:] - 1, len(first) - 1)] - begin
    )  # ids of an interval after its first
    offset = np.concatenate([[0], np.cumsum(more + 1)])
    interval = np.searchsorted(begin, start, side="right") - 1
    return offset[interval] + (start - begin[interval]), sum(more.tolist()) + len(more)


def runs_of(ids: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(first_run [R + 1], run_start, run_length) of requests with dense ids one after the other."""
    first = np.concatenate([[0], np.cumsum(lengths)])
    starts = np.ones(len(ids), bool)
    starts[1:] = np.diff(ids) != 1
    starts[first[:-1][lengths > 0]] = True
    at = np.flatnonzero(starts)
    return np.searchsorted(at, first), ids[at], np.diff(np.append(at, len(ids)))

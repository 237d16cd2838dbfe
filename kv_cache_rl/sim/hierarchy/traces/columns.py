"""The rules for the columns of a trace: each is a function that names problem, field and remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from kv_cache_rl.traces.errors import TraceError
from kv_cache_rl.traces.lab import MOST_BLOCKS

if TYPE_CHECKING:
    from kv_cache_rl.sim.hierarchy.traces.trace import Trace

UNKNOWN = -1
"""In place of the tokens of an answer that the trace does not tell: it leaves no block in the cache."""

Finding = tuple[str, str, str]  # what is wrong ("" if nothing), the field, the remedy
FINE: Finding = ("", "", "")


def check_columns(trace: Trace) -> None:
    """Raises TraceError with the first rule that the trace breaks."""
    for rule in RULES:
        problem, field, remedy = rule(trace)
        if problem:
            raise TraceError(problem, path=trace.name, field=field, remedy=remedy)


def _has_requests(trace: Trace) -> Finding:
    if not trace.requests:
        return "the trace has no requests", "", "give at least one request"
    if not len(trace.run_start):
        return (
            "no request names a block",
            "",
            "give at least one; stability plan and serving simulate do without",
        )
    return FINE


def _columns_fit(trace: Trace) -> Finding:
    requests, runs = trace.requests, len(trace.run_start)
    expected = {
        "time_s": (np.float64, requests),
        "sequence": (np.int64, requests),
        "first_run": (np.int64, requests + 1),
        "run_start": (np.int64, runs),
        "run_length": (np.int64, runs),
        "input_tokens": (np.int64, requests),
        "output_tokens": (np.int64, requests),
        "ends": (np.bool_, requests),
    }
    for field, (kind, length) in expected.items():
        column = getattr(trace, field)
        if column.dtype != kind or column.shape != (length,):
            problem = (
                f"the column is {column.dtype} {list(column.shape)}, expected {np.dtype(kind)} [{length}]"
            )
            return problem, field, "make all columns of the same requests"
    if isinstance(trace.page_bytes, np.ndarray) and trace.page_bytes.shape != (trace.blocks,):
        return (
            f"{trace.page_bytes.shape} sizes for {trace.blocks} blocks",
            "page_bytes",
            "give one size a block",
        )
    return FINE


def _clock_runs_forward(trace: Trace) -> Finding:
    bad = np.flatnonzero(~(np.isfinite(trace.time_s) & (trace.time_s >= 0)))
    if len(bad):
        return (
            f"request {bad[0]} is at {trace.time_s[bad[0]]:g} s",
            "time_s",
            "times are finite and from 0 on",
        )
    back = np.flatnonzero(np.diff(trace.time_s) < 0)
    if len(back):
        earlier, later = trace.time_s[back[0] : back[0] + 2]
        return (
            f"request {back[0] + 1} at {later:g} s comes after one at {earlier:g} s",
            "time_s",
            "sort requests by time",
        )
    return FINE


def _runs_are_blocks(trace: Trace) -> Finding:
    first, start, length = trace.first_run, trace.run_start, trace.run_length
    if first[0] != 0 or first[-1] != len(start) or (np.diff(first) < 0).any():
        return (
            "the requests do not divide the runs among them",
            "first_run",
            "count up from 0 to the number of runs",
        )
    bad = np.flatnonzero((length < 1) | (start < 0) | (start > trace.blocks - length))
    if len(bad):
        at = bad[0]
        problem = f"run {at} is {length[at]} blocks from {start[at]} on, the trace has {trace.blocks} blocks"
        return problem, "run_start", "ids are dense from 0, runs have at least one block"
    if trace.blocks > MOST_BLOCKS:
        return f"{trace.blocks:,} different blocks", "blocks", f"at most {MOST_BLOCKS:,} are supported"
    if not trace.chained and (
        len(start) != trace.requests or (length != 1).any() or (np.diff(first) != 1).any()
    ):
        return (
            "a request of a page trace names more or less than one page",
            "first_run",
            "set chained, or split it",
        )
    return FINE


def _sizes_are_positive(trace: Trace) -> Finding:
    if isinstance(trace.page_bytes, np.ndarray):
        bad = np.flatnonzero(trace.page_bytes <= 0)
        if len(bad):
            return (
                f"page {bad[0]} has {trace.page_bytes[bad[0]]} bytes",
                "page_bytes",
                "a page has at least 1 byte",
            )
    elif trace.page_bytes < 0:
        return f"a page has {trace.page_bytes} bytes", "page_bytes", "give a positive size, or 0 for unknown"
    if trace.block_tokens < 1:
        return f"a block has {trace.block_tokens} tokens", "block_tokens", "give at least 1"
    if (trace.sequence < 0).any() or (trace.input_tokens < 0).any() or (trace.output_tokens < UNKNOWN).any():
        return "a sequence index or a number of tokens is negative", "sequence", "count from 0"
    return FINE


RULES: tuple[Callable[[Trace], Finding], ...] = (
    _has_requests,
    _columns_fit,
    _clock_runs_forward,
    _runs_are_blocks,
    _sizes_are_positive,
)

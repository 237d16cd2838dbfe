"""A trace as columns: requests over dense block ids, written as runs of consecutive ids.

A prefix-tree trace (`chained`) has requests that are paths from a root; a block has one parent, so
an id stands for all blocks before it as well. A page trace has requests of one block each and no
parents. Runs, not blocks, are what is stored: a Claude Code request names 1,848 blocks in 3.3 runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kv_cache_rl.jit import njit
from kv_cache_rl.sim.hierarchy.traces.columns import check_columns
from kv_cache_rl.sim.hierarchy.traces.segments import segments
from kv_cache_rl.traces.errors import TraceError

PAGE_TOKENS = 16  # tokens that a page of a page trace stands for. Source: kv-hierarchy-lab
ROOT = -1  # the parent of a path's first block
LARGEST_ID = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Writes:
    """The full blocks that decoding wrote, W in all; `traces.writes` finds them. A write is no access."""

    first: np.ndarray  # int64 [R + 1], request r wrote block[first[r]:first[r + 1]], from the prompt on
    block: np.ndarray  # int64 [W]
    parent: np.ndarray  # int64 [W], the block before each, ROOT at a path's first
    base: np.ndarray  # int64 [R], leading blocks of the request's path that its writes follow
    named: int  # blocks from this id on are in no prompt
    room: np.ndarray  # int64 [R], bytes (blocks, where these have none) that a request needs besides, as for
    # a block it fills in part, and that are free again when it is over

    def of(self, keep: np.ndarray) -> Writes:
        """The writes of the requests where `keep` (bool [R]) is True."""
        counts = np.diff(self.first)
        inside = np.repeat(keep, counts)
        first = np.concatenate([[0], np.cumsum(counts[keep])])
        of_these = self.base[keep], self.named, self.room[keep]
        return Writes(first, self.block[inside], self.parent[inside], *of_these)


@dataclass(frozen=True, slots=True)
class Trace:
    """R requests over the blocks 0 ... blocks - 1, in order of time, as N runs. Checked when it is made.

    Raises TraceError for columns that do not fit each other; `parents` checks that a chained trace
    is a tree.
    """

    name: str
    chained: bool  # True: prefix-tree trace; False: plain page accesses
    block_tokens: int  # tokens in a block
    time_s: np.ndarray  # float64 [R], non-decreasing; page traces: the step
    sequence: np.ndarray  # int64 [R], dense index of the session
    first_run: np.ndarray  # int64 [R + 1], request r owns runs first_run[r]:first_run[r + 1]
    run_start: np.ndarray  # int64 [N], id of the run's first block
    run_length: np.ndarray  # int64 [N], at least 1
    blocks: int
    page_bytes: (
        np.ndarray | int
    )  # at fp16: int64 [blocks], or one number for all; 0: unknown, count blocks instead
    input_tokens: np.ndarray  # int64 [R], 0 where unknown
    output_tokens: np.ndarray  # int64 [R], UNKNOWN where unknown
    ends: np.ndarray  # bool [R], True at the last request of a sequence
    writes: Writes | None = None  # what decoding left in the cache; None: prompts alone are replayed
    warm_up: int = 0  # leading requests that fill the cache and are in no metric
    left_out: str = ""  # what of the file is not in it, in words

    def __post_init__(self) -> None:
        check_columns(self)

    @property
    def requests(self) -> int:
        """R."""
        return len(self.time_s)

    @property
    def accesses(self) -> int:
        """How often a block is accessed: the sum of the lengths of the requests behind the warm-up.

        Writes do not count.
        """
        return int(self.run_length[self.first_run[self.warm_up] :].sum())

    @property
    def lengths(self) -> np.ndarray:
        """Blocks of each request, int64 [R]."""
        if not self.chained:  # a request is one access
            return self.run_length
        until = np.concatenate([[0], np.cumsum(self.run_length)])
        return until[self.first_run[1:]] - until[self.first_run[:-1]]


def pages(
    name: str,
    ids: np.ndarray,
    page_bytes: np.ndarray | int = 0,
    steps: np.ndarray | None = None,
    sequence: np.ndarray | None = None,
    block_tokens: int = PAGE_TOKENS,
    blocks: int | None = None,
) -> Trace:
    """A page trace of these page ids, one access each; without `steps` the accesses are one step apart.

    Ids are dense from 0, as many as `blocks`, else as `page_bytes` has entries (or one number for
    all), else the largest + 1.
    """
    ids = _int64(name, "ids", ids)
    count = len(ids)
    if blocks is None:
        blocks = len(page_bytes) if isinstance(page_bytes, np.ndarray) else int(ids.max(initial=-1)) + 1
    sequence = np.zeros(count, np.int64) if sequence is None else _int64(name, "sequence", sequence)
    zeros = np.zeros(count, np.int64)
    return Trace(
        name=name,
        chained=False,
        block_tokens=block_tokens,
        time_s=np.arange(count, dtype=np.float64) if steps is None else np.asarray(steps, dtype=np.float64),
        sequence=sequence,
        first_run=np.arange(count + 1),
        run_start=ids,
        run_length=np.ones(count, np.int64),
        blocks=blocks,
        page_bytes=_int64(name, "page_bytes", page_bytes)
        if isinstance(page_bytes, np.ndarray)
        else page_bytes,
        input_tokens=zeros,
        output_tokens=zeros,
        ends=last_of(sequence),
    )


def last_of(sequence: np.ndarray) -> np.ndarray:
    """True where a sequence index stands for the last time, bool [R]."""
    count = len(sequence)
    ends = np.zeros(count, bool)
    if count and sequence.min() >= 0 and sequence.max() < count:  # dense: no need to sort
        last = np.full(count, -1)
        last[sequence] = np.arange(count)
        ends[last[last >= 0]] = True
    else:
        ends[count - 1 - np.unique(sequence[::-1], return_index=True)[1]] = True
    return ends


def expand(trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    """Every access: (first, block), request r touching block[first[r]:first[r + 1]] from the root on; int64
    [R + 1], [accesses].

    8 bytes an access: 683 MB for all Claude Code sessions, which is why the run-length replays do
    without.
    """
    first = np.concatenate([[0], np.cumsum(trace.lengths)])
    if first[-1] == len(trace.run_start):
        return first, trace.run_start
    return first, _fill(trace.run_start, trace.run_length, np.empty(first[-1], np.int64))


def parents(trace: Trace) -> np.ndarray:
    """The block before each block, int64 [blocks]; ROOT at a path's first block and for pages.

    Raises TraceError that names the request and the block if one block has two parents.
    """
    if not trace.chained:
        return np.full(trace.blocks, ROOT, np.int64)
    parent, request, block, other = _parents(trace.first_run, trace.run_start, trace.run_length, trace.blocks)
    if request >= 0:
        raise two_parents(trace.name, request, block, parent[block], other)
    if trace.writes is not None:
        parent[trace.writes.block] = trace.writes.parent
    return parent


def depths(trace: Trace) -> np.ndarray:
    """How many blocks stand before each block on its path, int64 [blocks]; 0 if no request names it."""
    return _depths(trace.first_run, trace.run_start, trace.run_length, np.zeros(trace.blocks, np.int64))


def checked_tree(
    trace: Trace,
    path: str,
    lines: Sequence[int] | None = None,
    name_of: Callable[[int], object] | None = None,
) -> Trace:
    """The trace itself, whose blocks have one parent each; raises TraceError with the file and, if known, the
    request's line and the blocks' names in the file.
    """
    edges, start, length = segments(trace.run_start, trace.run_length, trace.blocks)
    parent, request, at, before = _parents(trace.first_run, start, length, len(edges) - 1)
    if request >= 0:
        block, known, other = int(edges[at]), _last(edges, parent[at]), _last(edges, before)
        line = 0 if lines is None else lines[request]
        raise two_parents(path, request, block, known, other, line, name_of)
    return trace


def _last(edges: np.ndarray, segment: int) -> int:
    """The last id of a segment; ROOT in place of none."""
    return ROOT if segment == ROOT else int(edges[segment + 1]) - 1


def two_parents(
    name: str,
    request: int,
    block: int,
    known: int,
    other: int,
    line: int = 0,
    name_of: Callable[[int], object] | None = None,
) -> TraceError:
    """The error for a block that follows `other` in a request although it was known to follow `known`."""
    call = name_of or int
    before, after = (
        "no block (it starts a path)" if p == ROOT else f"block {call(p)}" for p in (known, other)
    )
    numbered = "" if name_of else " (numbered densely)"
    return TraceError(
        f"request {request} puts block {call(block)}{numbered} after {after}, other requests after {before}",
        path=name,
        line=line,
        remedy="ids must name a block together with all before it; chain them (as the Bailian reader does)",
    )


def subset(trace: Trace, keep: np.ndarray) -> Trace:
    """The trace of the requests where `keep` (bool [R]) is True, block ids unchanged."""
    runs = np.repeat(keep, np.diff(trace.first_run))
    counts = np.diff(trace.first_run)[keep]
    sequence = np.unique(trace.sequence[keep], return_inverse=True)[1].astype(np.int64)
    return replace(
        trace,
        time_s=trace.time_s[keep],
        sequence=sequence,
        first_run=np.concatenate([[0], np.cumsum(counts)]),
        run_start=trace.run_start[runs],
        run_length=trace.run_length[runs],
        input_tokens=trace.input_tokens[keep],
        output_tokens=trace.output_tokens[keep],
        ends=last_of(sequence),
        writes=trace.writes.of(keep) if trace.writes is not None else None,
        warm_up=int(keep[: trace.warm_up].sum()),
    )


@njit
def _fill(run_start, run_length, out):
    at = 0
    for run in range(len(run_start)):
        for block in range(run_start[run], run_start[run] + run_length[run]):
            out[at] = block
            at += 1
    return out


@njit
def _depths(first_run, run_start, run_length, depth):
    for request in range(len(first_run) - 1):
        at = 0
        for run in range(first_run[request], first_run[request + 1]):
            start, stop = run_start[run], run_start[run] + run_length[run]
            if depth[stop - 1] == 0:  # else all of this run is known
                for block in range(start, stop):
                    depth[block] = at + block - start
            at += stop - start
    return depth


@njit
def _parents(first_run, run_start, run_length, blocks):
    """(parent [blocks], request, block, other parent): the first conflict, request -1 if there is none.

    O(runs + blocks).
    """
    unknown = -2
    parent = np.full(blocks, unknown, np.int64)
    inside = np.zeros(blocks + 1, np.int32)  # how many runs hold a block other than as their first
    for run in range(len(run_start)):
        inside[run_start[run] + 1] += 1
        inside[run_start[run] + run_length[run]] -= 1
    depth = 0
    for block in range(blocks):
        depth += inside[block]
        if depth > 0:
            parent[block] = block - 1
    for request in range(len(first_run) - 1):
        before = -1
        for run in range(first_run[request], first_run[request + 1]):
            block = run_start[run]
            if parent[block] == unknown:
                parent[block] = before
            elif parent[block] != before:
                return parent, request, block, before
            before = block + run_length[run] - 1
    for block in range(blocks):
        if parent[block] == unknown:  # a block that no request uses
            parent[block] = -1
    return parent, -1, -1, -1


def _int64(name: str, field: str, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    if values.size and values.dtype.kind not in "iu":
        raise TraceError(
            f"expected integers, got {values.dtype}", path=name, field=field, remedy="give an integer array"
        )
    if values.dtype == np.uint64 and values.size and int(values.max()) > LARGEST_ID:
        problem = f"{int(values.max())} has more than 63 bits"
        raise TraceError(problem, path=name, field=field, remedy="number the ids densely from 0")
    return values.astype(np.int64, copy=False)

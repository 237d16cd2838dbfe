"""What decoding leaves in the cache: full blocks that a prompt and its answer fill, found by lengths.

    prompt of r       |== full blocks ==|= rest
    answer of r                         |= rest + answer =|   full blocks, which decoding completes
    prompt of q       |=================|=================|== new text ==

The first later request q of the same sequence whose path begins with all full blocks of r's prompt says what
became of the answer (of several such r the one with the longest prompt, else the latest). Is q's prompt at
least as long as r's prompt and answer together, q *continues* r: the blocks of its path over that length are
what r wrote. Else, or where there is no q, r wrote blocks that no prompt names: they take room and are never
asked for.

The trace does not say whether the text behind the prompt is the answer, word for word: a client that drops
the reasoning and adds as much text of its own looks the same. Nor does it say when the answer was complete:
the blocks are there before the next request begins.

Source: Dynamo infers it so from ordered rows of one session (ai-dynamo/dynamo#8953).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kv_cache_rl.jit import njit
from kv_cache_rl.sim.hierarchy.traces.segments import segments
from kv_cache_rl.sim.hierarchy.traces.trace import ROOT, Trace, Writes


def decoded(trace: Trace) -> Trace:
    """The trace with the blocks that decoding wrote; itself where no answer fills a block."""
    answered = np.maximum(trace.output_tokens, 0)  # UNKNOWN as none
    if not trace.chained or not answered.any():
        return trace
    lengths, size = trace.lengths, trace.block_tokens
    prompt = np.where(trace.input_tokens > 0, trace.input_tokens, lengths * size)
    held = (prompt + answered) // size
    base = np.minimum(prompt // size, lengths)
    count = held - prompt // size
    if not count.any():
        return trace
    runs = trace.first_run, trace.run_start, trace.run_length
    tips = _last_full_blocks(trace, base)
    cut = segments(trace.run_start, trace.run_length, trace.blocks, tips[tips >= 0])
    known = np.where(lengths < prompt // size, -1, np.searchsorted(cut.edges, tips, side="right") - 1)
    tokens = prompt, answered, size
    kinds = np.unique((trace.sequence * (len(cut.edges) - 1) + known)[known >= 0])
    source = _continued(trace.first_run, *cut, trace.sequence, lengths, *tokens, known, kinds)
    first = np.concatenate([[0], np.cumsum(count)])
    block, parent, blocks = _blocks(*runs, first, base, source, trace.blocks)
    sizes = trace.page_bytes
    if isinstance(sizes, np.ndarray):  # an unnamed block is as large as the others on average
        sizes = np.append(sizes, np.full(blocks - trace.blocks, round(sizes.mean()), np.int64))
    room = np.zeros(trace.requests, np.int64)
    writes = Writes(first, block, parent, base, trace.blocks, room)
    return replace(trace, blocks=blocks, page_bytes=sizes, writes=writes)


def _last_full_blocks(trace: Trace, full: np.ndarray) -> np.ndarray:
    """The last full block of each prompt, int64 [R]; -1 where it fills none."""
    until = np.concatenate([[0], np.cumsum(trace.run_length)])
    at = until[trace.first_run[:-1]] + full - 1
    run = np.searchsorted(until, at, side="right") - 1
    inside = np.minimum(run, len(trace.run_start) - 1)
    return np.where(full > 0, trace.run_start[inside] + at - until[inside], -1)


@njit
def _continued(first_run, edges, run_start, run_length, sequence, lengths, prompt, output, size, tip, kinds):
    """The request that continues each, int64 [R], -1: none does.

    `tip` is the segment that ends with a prompt's last full block, -1 where it fills none, or where its
    blocks are not all named; `kinds` are the pairs of a sequence and its tips as numbers, ascending.
    """
    requests, segments = len(lengths), len(edges) - 1
    source = np.full(requests, -1, np.int64)
    last = np.full(len(kinds), -1, np.int64)  # the last request of each kind that nothing continued
    waiting = np.zeros(segments, np.int32)  # how many of them end with a segment: mostly none, which is quick
    short = np.full(sequence.max() + 1, -1, np.int64)  # the last of a sequence, where it fills no block
    for q in range(requests):
        full = min(prompt[q] // size, lengths[q])
        position, before = lengths[q], -1
        for run in range(first_run[q + 1] - 1, first_run[q] - 1, -1):
            for one in range(run_start[run] + run_length[run] - 1, run_start[run] - 1, -1):
                if before < 0 and position <= full and waiting[one] > 0:
                    kind = sequence[q] * segments + one
                    at = min(np.searchsorted(kinds, kind), len(kinds) - 1)
                    if kinds[at] == kind and last[at] >= 0:
                        before = last[at]
                        last[at] = -1
                        waiting[one] -= 1
                position -= edges[one + 1] - edges[one]
            if before >= 0:
                break
        if before < 0:
            before = short[sequence[q]]
        if before >= 0:
            whole = prompt[before] + output[before]
            if whole <= prompt[q] and whole // size <= full:
                source[before] = q
        short[sequence[q]] = q if prompt[q] < size else -1
        if tip[q] >= 0:
            at = np.searchsorted(kinds, sequence[q] * segments + tip[q])
            waiting[tip[q]] += last[at] < 0
            last[at] = q
    return source


@njit
def _blocks(first_run, run_start, run_length, first, base, source, blocks):
    """(block [W], parent [W], blocks): what each request wrote, unnamed blocks numbered from `blocks` on."""
    block = np.empty(first[-1], np.int64)
    parent = np.empty(first[-1], np.int64)
    for r in range(len(base)):
        at, stop = first[r], first[r + 1]
        if at == stop:
            continue
        q = source[r] if source[r] >= 0 else r
        position, before = 0, ROOT
        for run in range(first_run[q], first_run[q + 1]):
            for one in range(run_start[run], run_start[run] + run_length[run]):
                if position >= base[r] and source[r] >= 0 and at < stop:
                    block[at], parent[at] = one, before
                    at += 1
                if position < base[r] or source[r] >= 0:
                    before = one
                position += 1
        while at < stop:
            block[at], parent[at] = blocks, before
            before = blocks
            blocks += 1
            at += 1
    return block, parent, blocks

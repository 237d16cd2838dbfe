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
from kv_cache_rl.sim.hierarchy.traces.trace import ROOT, Trace, Writes


def decoded(trace: Trace) -> Trace:
    """The trace with the blocks that decoding wrote; itself where no answer fills a block."""
    if not trace.chained or not trace.output_tokens.any():
        return trace
    lengths, size = trace.lengths, trace.block_tokens
    prompt = np.where(trace.input_tokens > 0, trace.input_tokens, lengths * size)
    held = (prompt + trace.output_tokens) // size
    base = np.minimum(prompt // size, lengths)
    count = held - prompt // size
    if not count.any():
        return trace
    runs = trace.first_run, trace.run_start, trace.run_length
    odd = lengths < prompt // size
    tokens = prompt, trace.output_tokens, size
    source = _continued(*runs, trace.sequence, lengths, *tokens, trace.blocks, odd)
    first = np.concatenate([[0], np.cumsum(count)])
    block, parent, blocks = _blocks(*runs, first, base, source, trace.blocks)
    sizes = trace.page_bytes
    if isinstance(sizes, np.ndarray):  # an unnamed block is as large as the others on average
        sizes = np.append(sizes, np.full(blocks - trace.blocks, round(sizes.mean()), np.int64))
    return replace(
        trace, blocks=blocks, page_bytes=sizes, writes=Writes(first, block, parent, base, trace.blocks)
    )


@njit
def _continued(first_run, run_start, run_length, sequence, lengths, prompt, output, size, blocks, odd):
    """The request that continues each, int64 [R], -1: none does. `odd` ones name too few blocks."""
    requests = len(lengths)
    source = np.full(requests, -1, np.int64)
    ends_at = np.full(blocks, -1, np.int32)  # the last request whose full blocks end with this one
    short = np.full(sequence.max() + 1, -1, np.int64)  # the last of a sequence, where it fills no block
    for q in range(requests):
        full = min(prompt[q] // size, lengths[q])
        position, before, tip = lengths[q], -1, -1
        for run in range(first_run[q + 1] - 1, first_run[q] - 1, -1):
            for block in range(run_start[run] + run_length[run] - 1, run_start[run] - 1, -1):
                position -= 1
                if position == full - 1:
                    tip = block
                r = ends_at[block]
                if before < 0 and position < full and r >= 0 and sequence[r] == sequence[q]:
                    before = r
                    ends_at[block] = -1
            if before >= 0 and position < full:
                break
        if before < 0:
            before = short[sequence[q]]
        if before >= 0:
            whole = prompt[before] + output[before]
            if whole <= prompt[q] and whole // size <= full:
                source[before] = q
        short[sequence[q]] = q if full == 0 and not odd[q] else -1
        if tip >= 0 and not odd[q]:
            ends_at[tip] = q
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

"""What an engine is asked so that its requests share blocks exactly where a trace says so.

    block of the trace (512 tokens)   |======== 17 ========|======== 42 ========|= rest
    block of the engine (32 tokens)   |== 17 ==|== 42 ==|= rest      the same blocks, fewer tokens

Every block has token ids of its own, drawn from its number, so two prompts begin alike as far as their blocks
are the same. An answer is given to the engine as well: what decoding writes is then the block that a later
prompt names. Lengths are counted in tokens of the trace and shrunk block by block, the rest in proportion.

Two things are changed, and counted in the plan:
* `merge` blocks of the trace are one of the engine, named by the last of them: it stands for all before it.
* A prompt of whole blocks gets one token more. An engine computes the last token of a prompt anew, and with
  it the whole last block, which it would then hold twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice

import numpy as np

from kv_cache_rl.core.draws import WEYL, mixed
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.sim.hierarchy.traces.trace import Trace

FIRST_TOKEN = 3
"""Ids below are those that models give to the start, the end and padding."""


class EngineError(Refused):
    """Something that an engine, or its recording, cannot do: says what, and what to do."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    number: int
    time_s: float
    sequence: int
    prompt: int
    """Tokens."""
    generated: int
    """Tokens of the answer, at least 1."""
    blocks: tuple[int, ...]
    """All blocks that prompt and answer fill, from the root on."""
    waits_for: int
    """The request that wrote a block of this prompt by decoding, which must be over before; -1: none."""

    @property
    def total(self) -> int:
        """Tokens of prompt and answer."""
        return self.prompt + self.generated


@dataclass(frozen=True, slots=True)
class Plan:
    """The requests of a trace, made for an engine."""

    name: str
    block_tokens: int
    """Of the engine."""
    trace_block_tokens: int
    """Of the trace, `merge` blocks together."""
    requests: tuple[Asked, ...]
    lengthened: int
    """Prompts of whole blocks, which got a token more."""

    @property
    def working_set(self) -> int:
        """Different blocks that prompts and answers fill."""
        return len({block for one in self.requests for block in one.blocks})

    @property
    def step_tokens(self) -> int:
        """Tokens of a step in which every prompt is computed whole."""
        return max(self.longest.total + 1, 2048)

    @property
    def longest(self) -> Asked:
        """The request of most tokens."""
        return max(self.requests, key=lambda one: one.total)


def plan_of(trace: Trace, block_tokens: int, merge: int = 1, limit: int | None = None) -> Plan:
    """The first `limit` requests of a trace for an engine with blocks of so many tokens.

    Raises:
        EngineError: pages of a page trace cannot be merged, or nothing would be left to ask.
    """
    if merge > 1 and not trace.chained:
        raise EngineError(f"{trace.name} has pages, which are no prefixes to merge; leave --merge out")
    fresh, size = count(trace.blocks), trace.block_tokens * merge
    requests, lengthened = [], 0
    for r in range(trace.requests if limit is None else min(limit, trace.requests)):
        prompt, output, blocks = _asked(trace, r, fresh)
        blocks = blocks[merge - 1 :: merge]
        tokens = shrunk(prompt, size, block_tokens)
        if tokens % block_tokens == 0:
            tokens, lengthened = tokens + 1, lengthened + 1
        total = max(shrunk(prompt + output, size, block_tokens), tokens + 1)
        blocks += islice(fresh, total // block_tokens - len(blocks))
        times = float(trace.time_s[r]), int(trace.sequence[r])
        requests.append(Asked(r, *times, tokens, total - tokens, tuple(blocks), -1))
    first = writers((one.blocks, one.prompt // block_tokens) for one in requests)
    asked = tuple(replace(one, waits_for=before) for one, before in zip(requests, first, strict=True))
    return Plan(trace.name, block_tokens, size, asked, lengthened)


def writers(paths: Iterable[tuple[Sequence[int], int]]) -> list[int]:
    """For each request the latest before it that wrote a block of its prompt by decoding; -1: none.

    Args:
        paths: the blocks that a request fills, and how many of them are full prompt.
    """
    writer, found = dict[int, int](), []
    for number, (blocks, inside) in enumerate(paths):
        found.append(max((writer.get(block, -1) for block in blocks[:inside]), default=-1))
        for block in blocks[inside:]:
            writer.setdefault(block, number)
    return found


def shrunk(tokens: int, size: int, block_tokens: int) -> int:
    """Tokens of an engine for tokens of a trace: as many full blocks, and a rest in proportion.

    >>> [shrunk(tokens, 512, 32) for tokens in (512, 513, 1023, 1024)]
    [32, 33, 63, 64]
    """
    full, rest = divmod(tokens, size)
    return full * block_tokens + (min(max(rest * block_tokens // size, 1), block_tokens - 1) if rest else 0)


def _asked(trace: Trace, r: int, fresh: Iterator[int]) -> tuple[int, int, list[int]]:
    """Tokens of a prompt and its answer, and the blocks that both fill; `fresh` numbers those without a
    name.
    """
    runs = slice(trace.first_run[r], trace.first_run[r + 1])
    starts, lengths = trace.run_start[runs].tolist(), trace.run_length[runs].tolist()
    named = [
        block for start, length in zip(starts, lengths, strict=True) for block in range(start, start + length)
    ]
    prompt, output = int(trace.input_tokens[r]), int(trace.output_tokens[r])
    if not (trace.chained and prompt):
        prompt = len(named) * trace.block_tokens
    full = prompt // trace.block_tokens
    blocks = named[:full]
    blocks += islice(fresh, full - len(blocks))
    if trace.writes is not None:
        blocks += trace.writes.block[trace.writes.first[r] : trace.writes.first[r + 1]].tolist()
    blocks += islice(fresh, max((prompt + output) // trace.block_tokens - len(blocks), 0))
    return prompt, output, blocks


def tokens_of(block: int, count: int, vocabulary: int, seed: int) -> list[int]:
    """The token ids of a block, from its first on."""
    start = np.uint64((seed << 40) % 2**64) + np.uint64(block) * np.uint64(2**16)
    with np.errstate(over="ignore"):
        words = mixed((start + np.arange(count, dtype=np.uint64)) * WEYL)
    return (FIRST_TOKEN + words % np.uint64(vocabulary - FIRST_TOKEN)).astype(np.int64).tolist()


def text_of(one: Asked, plan: Plan, vocabulary: int, seed: int) -> list[int]:
    """The token ids of a request: prompt, then answer. What fills no block is its own."""
    size = plan.block_tokens
    found = [token for block in one.blocks for token in tokens_of(block, size, vocabulary, seed)]
    rest = one.total - len(found)
    return found + tokens_of(2**40 + one.number, rest, vocabulary, seed)

"""What block tables and a pool hold at one moment, as plain values for a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.paged.kv_cache import KVCache
from kv_cache_rl.paged.sequences import Sequence
from kv_cache_rl.paged.swap import HostPool

GPU, HOST, GONE = "gpu", "host", "gone"
"""Places of a sequence's keys and values."""


@dataclass(frozen=True, slots=True)
class Row:
    """A sequence's block table."""

    name: str
    place: str
    blocks: list[int]
    """Block numbers in the order of the tokens; rows of the host pool where it lies there."""
    tokens: list[list[int]]
    """The ids in each of these blocks."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Block tables, and the references to every physical block."""

    block_tokens: int
    rows: list[Row]
    references: list[int]
    """Table entries of each block; 0: the block is free."""
    kept: list[int]
    """Free blocks whose contents a later prompt can still find."""
    host_blocks: int
    """Size of the host pool, 0 without one."""


def snapshot(cache: KVCache, sequences: Mapping[str, Sequence], host: HostPool | None = None) -> Snapshot:
    """The tables of these sequences (name → sequence), and the pool behind them."""
    pool = cache.pool
    references = [pool.references(block) for block in range(pool.numbers)]
    return Snapshot(
        pool.block_tokens,
        [_row(name, sequence, pool.block_tokens, host) for name, sequence in sequences.items()],
        references,
        sorted(block for block in pool.published if not references[block]),
        host.blocks if host else 0,
    )


def _row(name: str, sequence: Sequence, size: int, host: HostPool | None) -> Row:
    blocks, length, place = sequence.blocks, sequence.length, GPU
    if sequence.released:
        blocks, length = host.held.get(sequence.id, ([], 0)) if host else ([], 0)
        place = HOST if blocks else GONE
    cuts = range(0, blocks_for(length, size) * size, size)
    return Row(name, place, list(blocks), [sequence.tokens[at : min(at + size, length)] for at in cuts])

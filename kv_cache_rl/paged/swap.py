"""Keys and values of a preempted sequence: moved to the host and back, or computed again.

GPU pool --swap_out--> host pool --swap_in---> GPU pool
GPU pool --release---> nothing   --recompute-> GPU pool
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kv_cache_rl.core import pool as ledger
from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.paged.block_pool import BlockPool
from kv_cache_rl.paged.errors import whole
from kv_cache_rl.paged.kv_cache import KVCache
from kv_cache_rl.paged.sequences import Sequence

if TYPE_CHECKING:
    from kv_cache_rl.paged.model import Decoder

HOST = 0


class SwapError(Refused):
    """A sequence that cannot be swapped; nothing has changed."""


class HostPool:
    """Host memory for `blocks` blocks of a pool: one row holds a block's K and V of all layers."""

    def __init__(self, pool: BlockPool, blocks: int) -> None:
        """Zeroed rows, all free.

        Raises:
            SwapError: `blocks` is below 1.
        """
        if whole(blocks, f"a host pool of {blocks!r} blocks", SwapError) < 1:
            raise SwapError(f"a host pool of {blocks} blocks; give at least 1, or none at all")
        shape = (blocks, 2, pool.layers, pool.block_tokens, pool.kv_heads, pool.head_dim)
        # A GPU copies from pinned memory at full speed. Without a GPU there is none.
        self.rows = torch.zeros(shape, dtype=pool.dtype, pin_memory=pool.device.type == "cuda")
        """[blocks, 2, layers, block_tokens, kv_heads, head_dim]: K, then V."""
        self.blocks = blocks
        self.held: dict[int, tuple[list[int], int]] = {}
        """Sequence id → (rows, tokens) of the sequences that were swapped out whole."""
        self._ledger = np.array([[blocks, 0]])
        self._free = list(range(blocks))[::-1]
        self._taken: set[int] = set()

    @property
    def free(self) -> int:
        """Rows not in use."""
        return int(ledger.free(self._ledger, HOST))

    @property
    def used(self) -> int:
        """Rows in use."""
        return int(self._ledger[HOST, ledger.USED])

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.rows.nbytes

    def store(self, pool: BlockPool, blocks: list[int]) -> list[int]:
        """Copies blocks of the pool into free rows, which it returns; the blocks stay as they are.

        Raises:
            SwapError: too few rows are free, the pool is of another shape, or a block is quantised.
        """
        if len(blocks) > self.free:
            raise SwapError(
                f"{len(blocks)} blocks for a host pool with {self.free} of {self.blocks} free; "
                "recompute instead, or enlarge it"
            )
        self.check_pool(pool)
        if any(block >= pool.blocks for block in blocks):
            raise SwapError(
                "the sequence holds quantised blocks, the host pool takes exact ones; swap before quantising"
            )
        rows = [self._free.pop() for _ in blocks]
        self._taken.update(rows)
        ledger.take(self._ledger, HOST, len(rows))
        source, target = (torch.tensor(n, dtype=torch.int64, device=pool.device) for n in (blocks, rows))
        target = target.cpu()
        for layer in range(pool.layers):
            for which, tensor in enumerate((pool.keys[layer], pool.values[layer])):
                self.rows[target, which, layer] = tensor[source].cpu()
        return rows

    def check_pool(self, pool: BlockPool) -> None:
        """Raises SwapError for a pool with blocks that do not fit the rows."""
        if self.rows.shape[2:] != (pool.layers, *pool.keys[0].shape[1:]) or self.rows.dtype != pool.dtype:
            raise SwapError(
                f"the host pool holds {list(self.rows.shape[2:])} of {self.rows.dtype} "
                f"(layers, tokens, KV heads, dim), the pool {[pool.layers, *pool.keys[0].shape[1:]]} "
                f"of {pool.dtype}; build the host pool for this pool"
            )

    def read(self, rows: list[int]) -> Tensor:
        """A copy of `rows`, [n, 2, layers, block_tokens, kv_heads, head_dim]: K, then V."""
        return self.rows[torch.tensor(rows, dtype=torch.int64)]

    def give(self, rows: list[int]) -> None:
        """Frees `rows`.

        Raises:
            SwapError: one of them is free already, or is named twice.
        """
        if not self._taken.issuperset(rows) or len(set(rows)) < len(rows):
            raise SwapError(f"host rows {sorted(set(rows) - self._taken)} are free already: given back twice")
        self._taken.difference_update(rows)
        self._free += rows
        ledger.give(self._ledger, HOST, len(rows))

    def check(self, others: Iterable[int] = ()) -> None:
        """Recounts the rows; `others` are those that a caller of `store` holds.

        Raises:
            LedgerError: free + used is not the total, or the rows in use are not, once each, those
                of `held` and `others`.
        """
        ledger.check(self._ledger, np.array([len(self._taken)]))
        listed = [*(row for rows, _ in self.held.values() for row in rows), *others]
        if len(self._free) + len(self._taken) != self.blocks or sorted(listed) != sorted(self._taken):
            held = f"{len(self._free)} rows free, {len(self._taken)} taken, {self.blocks} in all"
            raise ledger.LedgerError(f"host pool: {held}; their holders list {len(listed)}")


def fill(pool: BlockPool, blocks: list[int], contents: Tensor) -> None:
    """Writes `contents` (from `HostPool.read`) into blocks of the pool."""
    target, contents = torch.tensor(blocks, dtype=torch.int64, device=pool.device), contents.to(pool.device)
    for layer in range(pool.layers):
        pool.keys[layer][target] = contents[:, 0, layer]
        pool.values[layer][target] = contents[:, 1, layer]


def swap_out(cache: KVCache, host: HostPool, sequence: Sequence) -> int:
    """Moves a sequence's keys and values to the host; returns how many blocks that freed.

    Blocks that other sequences hold too are copied and stay with these: after `swap_in` the
    sequence shares none. After an error nothing has changed.

    Raises:
        SwapError: the sequence holds no blocks, or the host is full.
        CacheError: the sequence belongs to another cache.
    """
    if not sequence.blocks or sequence.released:
        raise SwapError(
            f"sequence {sequence.id} holds no blocks: it was released or swapped out before; "
            "there is nothing to swap"
        )
    cache.check_sequence(sequence)
    before, needed = cache.pool.free, blocks_for(sequence.length, cache.pool.block_tokens)
    rows = host.store(cache.pool, sequence.blocks[:needed])
    stale, _ = host.held.pop(sequence.id, ([], 0))  # of an earlier swap; it was computed again since
    host.give(stale)
    host.held[sequence.id] = (rows, sequence.length)
    cache.release(sequence)
    return cache.pool.free - before


def swap_in(cache: KVCache, host: HostPool, sequence: Sequence) -> None:
    """Moves a swapped-out sequence back into new blocks. After an error nothing has changed.

    Raises:
        SwapError: the sequence is not in the host pool, or has blocks.
        PoolError: too few blocks are free.
    """
    if sequence.id not in host.held:
        raise SwapError(f"sequence {sequence.id} is not in this host pool; swap it out first")
    if sequence.blocks:
        raise SwapError(
            f"sequence {sequence.id} has {len(sequence.blocks)} blocks: it was computed anew; "
            "release it first"
        )
    host.check_pool(cache.pool)
    rows, length = host.held[sequence.id]
    blocks = cache.pool.take(len(rows))
    fill(cache.pool, blocks, host.read(rows))
    host.give(rows)
    del host.held[sequence.id]
    cache.adopt(sequence, blocks, length)


def recompute(model: Decoder, cache: KVCache, sequence: Sequence) -> Tensor:
    """Computes the K/V of a sequence's tokens that are not in the cache; all, if it was released.

    Returns the logits [vocab] after the last token. After an error nothing has changed.

    Raises:
        SwapError: no token's K/V is missing.
        PoolError: too few blocks are free.
    """
    missing = sequence.tokens[sequence.length :]
    if not missing:
        raise SwapError(
            f"sequence {sequence.id} has the K/V of all its {sequence.length} tokens; "
            "there is nothing to recompute"
        )
    if sequence.released:
        cache.adopt(sequence, [], 0)
        try:
            return model.prefill(cache, sequence, missing)
        except ValueError:
            cache.release(sequence)  # also frees the blocks that a failed `prefill` leaves as room
            raise
    return model.prefill(cache, sequence, missing)


@dataclass(frozen=True, slots=True)
class PreemptionCosts:
    """Seconds that one sequence takes, by either way to get it back after a preemption.

    `paged.measure.calibrate.measure_costs` measures them.

    >>> PreemptionCosts(256, 1.0, 2.0).cheaper, PreemptionCosts(256, 2.0, 1.0).cheaper
    ('swap', 'recompute')
    """

    tokens: int
    """Length of the sequence."""
    swap_s: float
    """Out and in again."""
    recompute_s: float

    @property
    def cheaper(self) -> str:
        """The way that takes less time: "swap" or "recompute"."""
        return "swap" if self.swap_s <= self.recompute_s else "recompute"

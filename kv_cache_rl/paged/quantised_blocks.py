"""Blocks of keys and values at few bits: a store behind the pool, and the blocks that move into it.

Keys are quantised per channel, over tokens, because a few channels are large for every token. Values are
quantised per token, over channels. Groups of keys span 64 tokens or more: with 16, scales and zeros
would add 2 bits to each value.

Source: KIVI (Liu et al., 2024, arXiv 2402.02750).
"""

import torch
from torch import Tensor

from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.paged.block_pool import STORE, BlockPool
from kv_cache_rl.paged.errors import whole
from kv_cache_rl.paged.kv_cache import KVCache
from kv_cache_rl.paged.quant import SCALE_DTYPE, QuantError, check_fits, quantise, unpack
from kv_cache_rl.paged.sequences import Sequence

KEY_SPAN = 64
"""Fewest tokens that share the scale of a key channel."""
VALUE_SPAN = 64
"""Fewest channels that share the scale of a token's values. Narrower heads are joined."""


def value_heads(kv_heads: int, head_dim: int) -> int:
    """How many neighbouring heads share the scale of a token's values: `VALUE_SPAN` channels.

    >>> value_heads(8, 128), value_heads(4, 32), value_heads(2, 16)
    (1, 2, 2)
    """
    heads = 1
    while heads * head_dim < VALUE_SPAN and heads < kv_heads and kv_heads % (2 * heads) == 0:
        heads *= 2
    return heads


class QuantisedBlocks:
    """Room for `blocks` blocks of a pool at few bits.

    The pool numbers them behind its own blocks (`BlockPool.attach`). The keys of `span` consecutive
    blocks, 64 tokens or more, share their scales. The values of each block have their own.
    """

    def __init__(self, pool: BlockPool, blocks: int, bits: int, value_bits: int | None = None):
        if whole(blocks, f"a store of {blocks!r} blocks", QuantError) < 1:
            raise QuantError(f"a store of {blocks} blocks; give it at least 1")
        self.bits, self.value_bits, self.blocks = bits, value_bits or bits, blocks
        heads, dim, tokens = pool.kv_heads, pool.head_dim, pool.block_tokens
        self.shape: tuple[int, ...] = (pool.layers, tokens, heads, dim)
        self.span = blocks_for(KEY_SPAN, tokens)
        self.joined = value_heads(heads, dim)
        groups = blocks_for(blocks, self.span)
        for count in (self.bits, self.value_bits):
            check_fits(torch.empty(1, dim), count, 0, 1)

        def room(*shape: int, dtype: torch.dtype = SCALE_DTYPE) -> list[Tensor]:
            return [torch.zeros(shape, dtype=dtype, device=pool.device) for _ in range(pool.layers)]

        self.key_codes = room(blocks, tokens, heads, dim * self.bits // 8, dtype=torch.uint8)
        self.value_codes = room(blocks, tokens, heads, dim * self.value_bits // 8, dtype=torch.uint8)
        self.key_scale, self.key_zero = room(groups, heads, dim), room(groups, heads, dim)
        self.value_scale, self.value_zero = (room(blocks, tokens, heads // self.joined) for _ in range(2))
        self.group_of = torch.full((blocks,), -1, dtype=torch.int32, device=pool.device)
        """int32 [blocks]: the group of key scales of each block, -1 before its first use."""
        self.nbytes = sum(tensor.nbytes for tensor in self.tensors)
        """Bytes of codes, scales, zeros and the table of groups."""
        self._rows: list[list[int]] = [[] for _ in range(groups)]
        self._next = 0

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors of the store."""
        parts = (
            self.key_codes,
            self.value_codes,
            self.key_scale,
            self.key_zero,
            self.value_scale,
            self.value_zero,
        )
        return [*(tensor for part in parts for tensor in part), self.group_of]

    def write(self, layer: int, rows: Tensor, groups: Tensor, keys: Tensor, values: Tensor) -> None:
        """Packs K and V [r, block_tokens, kv_heads, head_dim] of blocks into `rows` (int64 [r]).

        Key scales go into `groups` (int64 [g]); r / g consecutive blocks share one.
        """
        k = quantise(keys.unflatten(0, (len(groups), -1)).flatten(1, 2), self.bits, 1)
        self.key_codes[layer][rows] = k.codes.view(*keys.shape[:3], -1)
        self.key_scale[layer][groups], self.key_zero[layer][groups] = k.scale[:, 0], k.zero[:, 0]
        v = quantise(self._joined(values), self.value_bits, -1)
        self.value_codes[layer][rows] = v.codes.view(*values.shape[:3], -1)
        self.value_scale[layer][rows], self.value_zero[layer][rows] = v.scale[..., 0], v.zero[..., 0]

    def gather(self, layer: int, rows: Tensor, out_k: Tensor, out_v: Tensor) -> None:
        """Writes the decoded blocks of `rows` (int64 [r]) into `out_k` and `out_v`.

        Both are [r, block_tokens, kv_heads, head_dim].
        """
        group = self.group_of[rows].long()
        scale, zero = self.key_scale[layer][group].unsqueeze(1), self.key_zero[layer][group].unsqueeze(1)
        _decode(self.key_codes[layer][rows], self.bits, scale, zero, out_k)
        scale, zero = self.value_scale[layer][rows].unsqueeze(-1), self.value_zero[layer][rows].unsqueeze(-1)
        _decode(
            self._joined(unpack(self.value_codes[layer][rows], self.value_bits)),
            8,
            scale,
            zero,
            self._joined(out_v),
        )

    def free_groups(self, pool: BlockPool, count: int) -> list[int]:
        """`count` groups of key scales that no held block uses.

        Raises:
            QuantError: fewer are free.
        """
        found = []
        for ahead in range(len(self._rows)):
            group = (self._next + ahead) % len(self._rows)
            mine = (row for row in self._rows[group] if int(self.group_of[row]) == group)
            if not any(pool.references(pool.blocks + row) for row in mine):
                found.append(group)
            if len(found) == count:
                self._next = group + 1
                return found
        free = f"{len(found)} of {len(self._rows)} key scales are free, {count} are needed"
        raise QuantError(f"{free}; release sequences, or build a larger store")

    def assign(self, rows: list[int], groups: list[int]) -> None:
        """Notes that the keys of `rows` use the scales of `groups`, as many rows each."""
        share = len(rows) // len(groups)
        for at, group in enumerate(groups):
            self._rows[group] = rows[at * share : (at + 1) * share]
            self.group_of[self._rows[group]] = group

    def _joined(self, values: Tensor) -> Tensor:
        heads, dim = values.shape[2:]
        return values.view(*values.shape[:2], heads // self.joined, self.joined * dim)


def quantise_blocks(cache: KVCache, blocks: list[int]) -> list[int]:
    """Quantises `blocks` at the bits of the pool's store; returns their new numbers.

    The blocks are full, exact, and consecutive in one table: one group, or whole groups. A block is
    quantised for all its holders at once: every table of the cache is rewritten. If any block is
    refused, nothing has changed.

    Raises:
        QuantError: no store, values that cannot be quantised, or blocks that are quantised already,
            being written, free, not neighbours in one of the cache's tables, or named twice.
        PoolError: no room in the store.
        CacheError: a table outside this cache holds one of the blocks.
    """
    pool, store = cache.pool, store_of(cache)
    count = max(1, len(blocks) // store.span)
    if not blocks or (len(blocks) > store.span and len(blocks) % store.span) or max(blocks) >= pool.blocks:
        raise QuantError(
            f"blocks {blocks}: give 1 to {store.span}, or a multiple of that, "
            f"of exact blocks (below {pool.blocks})"
        )
    for first in range(0, len(blocks), store.span):
        _check_run(cache, blocks[first : first + store.span])
    if len(set(blocks)) < len(blocks):
        raise QuantError(f"blocks {blocks}: give each once")
    groups, taken = store.free_groups(pool, count), pool.take(len(blocks), STORE)
    try:
        rows, places, own = torch.tensor(taken) - pool.blocks, torch.tensor(groups), torch.tensor(blocks)
        for layer in range(pool.layers):
            store.write(layer, rows, places, pool.keys[layer][own], pool.values[layer][own])
        store.assign(rows.tolist(), groups)
        cache.relabel(dict(zip(blocks, taken, strict=True)))
    except ValueError:
        for block in taken:
            pool.drop(block)
        raise
    return taken


def _check_run(cache: KVCache, group: list[int]) -> None:
    """Raises QuantError unless the blocks follow each other in some table of the cache, full."""
    for sequence in cache.live.values():
        full = sequence.blocks[: sequence.length // cache.pool.block_tokens]
        if group[0] in full:
            at = full.index(group[0])
            if full[at : at + len(group)] == group:
                return
    raise QuantError(
        f"blocks {group} do not follow each other, full, in any sequence; the one being written stays exact"
    )


def quantise_filled(cache: KVCache, sequence: Sequence) -> int:
    """Quantises every full group of the sequence; returns how many blocks that were.

    The group being written stays exact. Groups start at multiples of the span, so that sequences
    with a shared prefix have the same ones. A group that another sequence has quantised in part
    stays exact in the rest, and so does a group without room in the store.

    Raises:
        QuantError, CacheError: as `quantise_blocks`.
    """
    cache.check_sequence(sequence)
    pool, store = cache.pool, store_of(cache)
    whole = sequence.length // pool.block_tokens // store.span * store.span
    groups = [sequence.blocks[first : first + store.span] for first in range(0, whole, store.span)]
    exact = [group for group in groups if max(group) < pool.blocks]
    found = [block for group in exact[: (store.blocks - pool.stored) // store.span] for block in group]
    if found:
        quantise_blocks(cache, found)
    return len(found)


def store_of(cache: KVCache) -> QuantisedBlocks:
    """The store of the cache's pool.

    Raises:
        QuantError: the pool has no store for quantised blocks.
    """
    if not isinstance(cache.pool.store, QuantisedBlocks):
        raise QuantError(
            "the pool has no store for quantised blocks; "
            "pool.attach(QuantisedBlocks(pool, blocks, bits)) first"
        )
    return cache.pool.store


def _decode(codes: Tensor, bits: int, scale: Tensor, zero: Tensor, out: Tensor) -> None:
    exact = (
        out if out.dtype == torch.float32 else torch.empty(out.shape, dtype=torch.float32, device=out.device)
    )
    exact.copy_(unpack(codes, bits)).mul_(scale).add_(zero)
    if exact is not out:
        out.copy_(exact)

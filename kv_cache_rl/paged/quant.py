"""Keys and values at 8, 4 or 2 bits: asymmetric integers with a 16-bit scale and zero per group, packed into
bytes.

Source: KIVI (Liu et al., 2024, arXiv 2402.02750): keys are quantised per channel, over tokens, because a few
channels are large for every token; values per token, over channels. Groups of keys span 64 tokens or more,
for 16 would cost 2 bits a value."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.paged.block_pool import STORE, BlockPool
from kv_cache_rl.paged.block_table import Sequence
from kv_cache_rl.paged.kv_cache import KVCache

BITS = {"int8": 8, "int4": 4, "int2": 2}
"""Scheme -> bits of a value."""
KEY_SPAN = 64
"""Fewest tokens that share the scale of a key channel."""
VALUE_SPAN = 64
"""Fewest channels that share the scale of a token's values; narrower heads are joined."""
SCALE_DTYPE = torch.float16


class QuantError(Refused):
    """Something cannot be quantised as asked: says what, where, and what to do."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A tensor as integers of few bits. Value = zero + scale x code."""

    codes: Tensor
    """uint8, the shape of the tensor with the last dimension packed, ``8 / bits`` codes a byte, the first
    lowest.
    """
    scale: Tensor
    """float16, the shape of the tensor with one number for `group` ones along `axis`."""
    zero: Tensor
    """float16, like the scale."""
    bits: int
    axis: int
    group: int

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zeros together."""
        return self.codes.nbytes + self.scale.nbytes + self.zero.nbytes


def quantise(x: Tensor, bits: int, axis: int, group: int | None = None) -> Packed:
    """The tensor at `bits`; `group` neighbours along `axis` share a scale (None: all of them).

    Scales are rounded up and zeros down to 16 bits, so that no value falls outside: |x - dequantised| <=
    scale / 2.

    Raises:
        QuantError: bits, axis or group do not fit, or the tensor holds NaN, infinities or what 16 bits
            cannot.
    """
    axis, group = axis % x.dim(), group or x.shape[axis]
    check_fits(x, bits, axis, group)
    parts = x.float().unflatten(axis, (-1, group))
    low, high = parts.amin(axis + 1), parts.amax(axis + 1)
    check_finite(low, high)
    zero = _rounded(low, down=True)
    scale = _rounded((high - zero.float()) / (2**bits - 1), down=False)
    steps = scale.float().unsqueeze(axis + 1)
    # A group of equal values that 16 bits hold exactly has scale 0; any divisor will do, its codes are 0.
    codes = (
        ((parts - zero.float().unsqueeze(axis + 1)) / steps.clamp_min(2.0**-24))
        .round_()
        .clamp_(0, 2**bits - 1)
    )
    return Packed(pack(codes.flatten(axis, axis + 1).to(torch.uint8), bits), scale, zero, bits, axis, group)


def dequantise(packed: Packed, dtype: torch.dtype = torch.float32) -> Tensor:
    """The tensor back, in the shape it had."""
    scale, zero = (
        packed.scale.to(dtype).unsqueeze(packed.axis + 1),
        packed.zero.to(dtype).unsqueeze(packed.axis + 1),
    )
    codes = unpack(packed.codes, packed.bits).unflatten(packed.axis, (-1, packed.group))
    return torch.addcmul(zero, codes.to(dtype), scale).flatten(packed.axis, packed.axis + 1)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes of `bits` (uint8) with the last dimension packed into bytes, the first of a byte lowest.

    >>> pack(torch.tensor([1, 2, 3, 4], dtype=torch.uint8), 4).tolist()
    [33, 67]
    """
    if bits == 8:
        return codes
    parts = codes.unflatten(-1, (-1, 8 // bits))
    packed = parts[..., 0].clone()
    for place in range(1, 8 // bits):
        packed |= parts[..., place] << (bits * place)
    return packed


def unpack(packed: Tensor, bits: int) -> Tensor:
    """The codes that `pack` packed."""
    if bits == 8:
        return packed
    places = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    return ((packed.unsqueeze(-1) >> places) & (2**bits - 1)).flatten(-2)


def value_heads(kv_heads: int, head_dim: int) -> int:
    """How many neighbouring heads share the scale of a token's values: as many as make `VALUE_SPAN` channels.

    >>> value_heads(8, 128), value_heads(4, 32), value_heads(2, 16)
    (1, 2, 2)
    """
    heads = 1
    while heads * head_dim < VALUE_SPAN and heads < kv_heads and kv_heads % (2 * heads) == 0:
        heads *= 2
    return heads


class QuantisedBlocks:
    """Room for `blocks` blocks of a pool at few bits; the pool numbers them behind its own
    (`BlockPool.attach`).

    The keys of `span` consecutive blocks share their scales (64 tokens and more); a block's values have their
    own."""

    def __init__(self, pool: BlockPool, blocks: int, bits: int, value_bits: int | None = None):
        if blocks < 1:
            raise QuantError(f"a store of {blocks} blocks; give it at least 1")
        self.bits, self.value_bits, self.blocks = bits, value_bits or bits, blocks
        heads, dim, tokens = pool.kv_heads, pool.head_dim, pool.block_tokens
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
        """Which key scales belong to a block; -1 before its first use."""
        self.nbytes = sum(tensor.nbytes for tensor in self.tensors)
        """Bytes of codes, scales, zeros and the table of groups."""
        self._rows: list[list[int]] = [[] for _ in range(groups)]
        self._next = 0

    @property
    def tensors(self) -> list[Tensor]:
        """All that is stored."""
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
        """Packs the K and V [r, block_tokens, kv_heads, head_dim] of blocks into `rows` [r]; key scales into
        `groups` [g].

        Consecutive blocks share key scales, r / g of them each.
        """
        k = quantise(keys.unflatten(0, (len(groups), -1)).flatten(1, 2), self.bits, 1)
        self.key_codes[layer][rows] = k.codes.view(*keys.shape[:3], -1)
        self.key_scale[layer][groups], self.key_zero[layer][groups] = k.scale[:, 0], k.zero[:, 0]
        v = quantise(self._joined(values), self.value_bits, -1)
        self.value_codes[layer][rows] = v.codes.view(*values.shape[:3], -1)
        self.value_scale[layer][rows], self.value_zero[layer][rows] = v.scale[..., 0], v.zero[..., 0]

    def gather(self, layer: int, rows: Tensor, out_k: Tensor, out_v: Tensor) -> None:
        """Writes the decoded blocks of `rows` (int64 [r]) into `out_k`, `out_v` [r, block_tokens, kv_heads,
        head_dim].
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
        """Places for key scales that no held block uses. Raises QuantError where there are fewer."""
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
        """Says that the keys of `rows` were written with the scales of `groups`, as many rows each."""
        share = len(rows) // len(groups)
        for at, group in enumerate(groups):
            self._rows[group] = rows[at * share : (at + 1) * share]
            self.group_of[self._rows[group]] = group

    def _joined(self, values: Tensor) -> Tensor:
        heads, dim = values.shape[2:]
        return values.view(*values.shape[:2], heads // self.joined, self.joined * dim)


def quantise_blocks(cache: KVCache, blocks: list[int]) -> list[int]:
    """The new numbers of `blocks`, full, consecutive and exact until now, at the bits of the pool's store.

    They are one group, or whole groups one after the other. A block is quantised for all its holders at once:
    every table of the cache is rewritten. Where somebody outside the cache holds one, or the store is full,
    it is refused, nothing has changed.

    Raises:
        QuantError: no store, values that cannot be quantised, or blocks that are so already, being written,
            free, not neighbours in one of the cache's tables, or named twice.
        PoolError, CacheError: no room in the store, or a holder that this cache does not know.
    """
    pool, store = cache.pool, store_of(cache)
    count = max(1, len(blocks) // store.span)
    if not blocks or (len(blocks) > store.span and len(blocks) % store.span) or max(blocks) >= pool.blocks:
        raise QuantError(
            f"blocks {blocks}: give 1 to {store.span}, or a multiple of that, of exact blocks (below {pool.blocks})"
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
    """Quantises every group of the sequence that is full; the one it is writing stays exact. Blocks quantised
    by this.

    Groups lie at multiples of the span from the start, so that sharers of a prefix have the same ones. One
    that another sequence has quantised in part stays exact in the rest, and so does what finds no room in the
    store."""
    cache.refuse_strangers(sequence)
    pool, store = cache.pool, store_of(cache)
    whole = sequence.length // pool.block_tokens // store.span * store.span
    groups = [sequence.blocks[first : first + store.span] for first in range(0, whole, store.span)]
    exact = [group for group in groups if max(group) < pool.blocks]
    found = [block for group in exact[: (store.blocks - pool.stored) // store.span] for block in group]
    if found:
        quantise_blocks(cache, found)
    return len(found)


def store_of(cache: KVCache) -> QuantisedBlocks:
    """The store of the cache's pool. Raises QuantError where it has none for quantised blocks."""
    if not isinstance(cache.pool.store, QuantisedBlocks):
        raise QuantError(
            "the pool has no store for quantised blocks; pool.attach(QuantisedBlocks(pool, blocks, bits)) first"
        )
    return cache.pool.store


def _decode(codes: Tensor, bits: int, scale: Tensor, zero: Tensor, out: Tensor) -> None:
    exact = (
        out if out.dtype == torch.float32 else torch.empty(out.shape, dtype=torch.float32, device=out.device)
    )
    exact.copy_(unpack(codes, bits)).mul_(scale).add_(zero)
    if exact is not out:
        out.copy_(exact)


def check_fits(x: Tensor, bits: int, axis: int, group: int) -> None:
    """Raises QuantError unless a tensor of that shape can be packed so."""
    if bits not in BITS.values():
        raise QuantError(
            f"{bits} bits are no scheme; use one of {', '.join(f'{n} ({s})' for s, n in BITS.items())}"
        )
    if not x.dtype.is_floating_point:
        raise QuantError(f"{x.dtype} is not quantised; give floating-point keys or values")
    if x.numel() == 0 or group < 1 or x.shape[axis] % group:
        raise QuantError(
            f"shape {tuple(x.shape)}: {x.shape[axis]} along axis {axis} are not whole groups of {group}; pad or regroup"
        )
    if x.shape[-1] % (8 // bits):
        raise QuantError(
            f"{x.shape[-1]} values at {bits} bits do not fill bytes; the last dimension must be a multiple of {8 // bits}"
        )


def check_finite(low: Tensor, high: Tensor) -> None:
    """Raises QuantError for NaN, infinities and numbers beyond what a 16-bit scale can hold."""
    worst = torch.stack((low, high)).abs().max()  # NaN where there is one
    if not worst < torch.finfo(SCALE_DTYPE).max / 2:
        raise QuantError(
            f"the largest value to quantise is {float(worst)}; repair NaN and infinities, or leave the block exact"
        )


def _rounded(x: Tensor, down: bool) -> Tensor:
    """The nearest float16 numbers not above, or not below."""
    near = x.to(SCALE_DTYPE)
    far = torch.nextafter(near, torch.full_like(near, -torch.inf if down else torch.inf))
    return torch.where(near.float() > x if down else near.float() < x, far, near)

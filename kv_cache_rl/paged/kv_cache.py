"""The cache: sequences over a pool, with copy on write."""

from collections.abc import Mapping
from copy import copy

import torch
from torch import Tensor

from kv_cache_rl.core.blocks import blocks_for, prefix_hashes
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.paged.block_pool import BlockPool
from kv_cache_rl.paged.block_table import Sequence, slot_mapping


class CacheError(Refused):
    """A request that makes no sense for this cache or sequence; nothing has changed."""


class KVCache:
    """Keys and values of many sequences in one pool; knows every sequence that holds blocks."""

    def __init__(self, pool: BlockPool):
        self.pool = pool
        self.copies = 0
        """Blocks copied on write so far."""
        self.live: dict[int, Sequence] = {}
        """Sequences that hold blocks, by id."""

    def extend(self, sequence: Sequence, count: int) -> Tensor:
        """Room for `count` more tokens: int64 [count] slots to write K/V to, in every layer.

        A last block that others hold too is copied first, so that nobody sees the new tokens. `length` counts
        them at once: write them before anything attends.

        Raises:
            PoolError: not enough free blocks (a copy needs one as well); nothing has changed.
        """
        copying = self.check_extend(sequence, count)
        pool, start = self.pool, sequence.length
        missing = max(0, blocks_for(start + count, pool.block_tokens) - len(sequence.blocks))
        taken = pool.take(missing + copying)
        if copying:
            old, new = sequence.blocks[start // pool.block_tokens], taken.pop()
            pool.copy(old, new)
            pool.drop(old)
            sequence.blocks[start // pool.block_tokens] = new
            self.copies += 1
        sequence.blocks += taken
        sequence.length += count
        self._note(sequence)
        return slot_mapping(sequence, start, start + count, pool.block_tokens, pool.device)

    def check_extend(self, sequence: Sequence, count: int) -> bool:
        """Whether extending by `count` tokens copies a block first.

        Raises CacheError where `extend` would.
        """
        self.refuse_strangers(sequence)
        if count < 0:
            raise CacheError(
                f"sequence {sequence.id} extended by {count} tokens; tokens are added, never taken away"
            )
        return count > 0 and sequence.length % self.pool.block_tokens > 0 and self._last_is_foreign(sequence)

    def _last_is_foreign(self, sequence: Sequence) -> bool:
        block = sequence.blocks[sequence.length // self.pool.block_tokens]
        if block >= self.pool.blocks:
            raise CacheError(
                f"sequence {sequence.id} would write into block {block}, which is quantised; only full blocks may be quantised"
            )
        return self.pool.references(block) > 1

    def write(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Puts `k`, `v` [n, kv_heads, head_dim] into `slots` (int64 [n], from `extend`).

        Raises:
            CacheError: slots, shapes, dtypes or values that do not belong into this cache; nothing is
                written.
        """
        self._check_slots(slots)
        self.check_write(layer, len(slots), k, v)
        for kept, new in ((self.pool.keys[layer], k), (self.pool.values[layer], v)):
            _wide(kept.flatten(0, 1)).index_copy_(0, slots, _wide(new.contiguous()))

    def _check_slots(self, slots: Tensor) -> None:
        if slots.dtype != torch.int64 or slots.dim() != 1:
            raise CacheError(
                f"slots are {slots.dtype} of shape {list(slots.shape)}; give int64 [n], as `extend` does"
            )
        room = self.pool.blocks * self.pool.block_tokens
        lowest, highest = (int(x) for x in torch.aminmax(slots)) if len(slots) else (0, 0)
        if lowest < 0 or highest >= room:
            raise CacheError(
                f"slots run from {lowest} to {highest}, the pool has 0 to {room - 1}; write to those of `extend`"
            )

    def check_write(self, layer: int, count: int, k: Tensor, v: Tensor) -> None:
        """Raises CacheError unless `write` would take `k` and `v` for `count` slots."""
        pool = self.pool
        if not 0 <= layer < pool.layers:
            raise CacheError(f"layer {layer} of a cache with layers 0 to {pool.layers - 1}")
        for name, new in (("k", k), ("v", v)):
            if new.shape != (count, pool.kv_heads, pool.head_dim):
                want = f"{[count, pool.kv_heads, pool.head_dim]} (slots, kv heads, head dim)"
                raise CacheError(f"{name} of layer {layer} has shape {list(new.shape)}, not {want}")
            if new.dtype != pool.dtype:
                raise CacheError(
                    f"{name} of layer {layer} is {new.dtype}, the cache holds {pool.dtype}; convert it first"
                )
            if not _finite(new):
                raise CacheError(
                    f"{name} of layer {layer} holds NaN or infinity; nothing is written, it would poison all that follows"
                )

    def fork(self, sequence: Sequence) -> Sequence:
        """A sequence with the same past on the same blocks; whoever writes first into the shared last block
        gets a copy.
        """
        self.refuse_strangers(sequence)
        for block in sequence.blocks:
            self.pool.share(block)
        child = Sequence(list(sequence.tokens), list(sequence.blocks), sequence.length)
        self._note(child)
        return child

    def release(self, sequence: Sequence) -> None:
        """Gives the sequence's blocks back; last block first, so that prefixes stay findable longest."""
        self.refuse_strangers(sequence)
        for block in reversed(sequence.blocks):
            self.pool.drop(block)
        self.live.pop(sequence.id, None)
        sequence.blocks, sequence.length, sequence.released = [], 0, True

    def adopt(self, sequence: Sequence, blocks: list[int], length: int) -> None:
        """Makes `blocks` (already referenced once for this purpose) the table of an empty or released
        sequence: a swap-in.
        """
        if sequence.blocks:
            raise CacheError(
                f"sequence {sequence.id} has {len(sequence.blocks)} blocks already; release it first"
            )
        if not 0 <= length <= len(blocks) * self.pool.block_tokens:
            raise CacheError(f"{length} tokens do not fit {len(blocks)} blocks of {self.pool.block_tokens}")
        sequence.blocks, sequence.length, sequence.released = list(blocks), length, False
        self._note(sequence)

    def reuse(self, sequence: Sequence, tokens: list[int]) -> int:
        """Tokens of the longest published prefix of `tokens`, now in the table of the empty `sequence`; 0 if
        there is none.
        """
        if sequence.blocks:
            raise CacheError(
                f"sequence {sequence.id} has {len(sequence.blocks)} blocks already; only an empty one starts on a prefix"
            )
        found: list[int] = []
        for chained in prefix_hashes(tokens, self.pool.block_tokens):
            block = self.pool.lookup(chained)
            if block is None:
                break
            self.pool.share(block)
            found.append(block)
        self.adopt(sequence, found, len(found) * self.pool.block_tokens)
        return sequence.length

    def publish(self, sequence: Sequence) -> None:
        """Makes the sequence's full blocks findable by later prompts that begin alike."""
        self.refuse_strangers(sequence)
        for block, chained in zip(
            sequence.blocks,
            prefix_hashes(sequence.tokens[: sequence.length], self.pool.block_tokens),
            strict=False,
        ):
            self.pool.publish(block, chained)

    def relabel(self, new_of: Mapping[int, int]) -> None:
        """Replaces blocks by others (old → new, just taken) in every table: a block changed format for all
        its holders at once.

        Raises:
            CacheError: somebody outside this cache holds one of them; nothing has changed.
        """
        seen = dict.fromkeys(new_of, 0)
        for sequence in self.live.values():
            for block in sequence.blocks:
                if block in seen:
                    seen[block] += 1
        for block, count in seen.items():
            if count != self.pool.references(block):
                total = self.pool.references(block)
                raise CacheError(
                    f"block {block} has {total} references, this cache's tables hold {count}: refused for all holders"
                )
        for sequence in self.live.values():
            sequence.blocks[:] = [new_of.get(block, block) for block in sequence.blocks]
        for old, new in new_of.items():
            self.pool.relabel(old, new)

    def check(self) -> None:
        """`BlockPool.check` against the live sequences, each with room for its tokens."""
        self.pool.check(self.live.values())
        for sequence in self.live.values():
            if sequence.length > len(sequence.blocks) * self.pool.block_tokens:
                raise CacheError(
                    f"sequence {sequence.id} counts {sequence.length} tokens in {len(sequence.blocks)} blocks"
                )

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks that sequences hold (shared ones once), in whatever format."""
        stored = 0
        if self.pool.store is not None:
            stored = self.pool.store.nbytes * self.pool.stored // self.pool.store.blocks
        return self.pool.used * self.pool.block_nbytes + stored

    def _note(self, sequence: Sequence) -> None:
        if sequence.blocks:
            self.live[sequence.id] = sequence

    def refuse_strangers(self, sequence: Sequence) -> None:
        """Raises CacheError for a sequence that was released, or whose blocks are another cache's."""
        if self.live.get(sequence.id, sequence) is not sequence:
            raise CacheError(
                f"another live sequence of this cache has the id {sequence.id}; leave ids to `Sequence`"
            )
        if sequence.released:
            raise CacheError(
                f"sequence {sequence.id} was released: it has no keys and values any more (swap it in, or recompute it)"
            )
        if sequence.blocks and sequence.id not in self.live:
            raise CacheError(
                f"sequence {sequence.id} holds {len(sequence.blocks)} blocks of another cache; use it with that one"
            )


def _wide(rows: Tensor) -> Tensor:
    """The rows [n, ...] as the widest numbers that fill them:

    `index_copy_` moves one number at a time, whatever its size.
    """
    flat = rows.flatten(1)
    wide = torch.complex128
    fits = (
        flat.shape[1] * flat.itemsize % wide.itemsize == 0
        and flat.storage_offset() * flat.itemsize % wide.itemsize == 0
    )
    return flat.view(wide) if fits else flat


def _finite(tensor: Tensor) -> bool:
    # The extremes are NaN where an element is; `isfinite` on every element takes fifteen times as long.
    return not tensor.numel() or bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


class BlockAllocator(BlockPool):
    """A pool for one layer and plain vectors (the seed's interface); all caches on it share blocks by fork."""

    def __init__(
        self, total_blocks: int, block_size: int, hidden_dim: int, device: str | torch.device = "cpu"
    ) -> None:
        super().__init__(1, total_blocks, block_size, 1, hidden_dim, device=device)
        self.cache = KVCache(self)

    def allocate(self) -> int:
        """One block, with one reference."""
        return self.take(1)[0]

    def with_heads(self, heads: int) -> BlockPool:
        """The same blocks in the same memory, their vectors seen as `heads` heads."""
        seen = copy(self)
        seen.kv_heads, seen.head_dim = heads, self.head_dim // heads
        shape = (self.blocks, self.block_tokens, heads, seen.head_dim)
        seen.keys, seen.values = [x.view(shape) for x in self.keys], [x.view(shape) for x in self.values]
        return seen


class PagedKVCache:
    """One sequence's keys and values on an allocator (the seed's interface), token by token, safe to fork."""

    def __init__(
        self, block_size: int, hidden_dim: int, allocator: BlockAllocator, seq_id: int | None = None
    ) -> None:
        if (block_size, hidden_dim) != (allocator.block_tokens, allocator.head_dim):
            have = f"{allocator.block_tokens} tokens of {allocator.head_dim} numbers"
            raise CacheError(
                f"a cache of blocks of {block_size} tokens of {hidden_dim} numbers on an allocator of {have}"
            )
        self.block_size, self.hidden_dim, self.allocator = block_size, hidden_dim, allocator
        self.seq_id, self.sequence = seq_id, Sequence()

    @property
    def num_tokens(self) -> int:
        """Tokens cached."""
        return self.sequence.length

    @property
    def block_table(self) -> list[int]:
        """Blocks in the order of the tokens."""
        return list(self.sequence.blocks)

    def append_token_kv(self, key: Tensor, value: Tensor) -> None:
        """Caches one token's projected key and value [hidden_dim]; a block that a fork holds too is copied
        first.
        """
        self.append_token_kv_batch(key[None], value[None])

    def append_token_kv_batch(self, keys: Tensor, values: Tensor) -> None:
        """Caches the projected keys and values [t, hidden_dim] of several tokens."""
        cache, k, v = self.allocator.cache, keys.detach()[:, None], values.detach()[:, None]
        cache.check_write(0, len(keys), k, v)
        cache.write(0, cache.extend(self.sequence, len(keys)), k, v)

    def keys_values(self) -> tuple[Tensor, Tensor]:
        """Copies of all keys and values [tokens, hidden_dim]."""
        slots = slot_mapping(self.sequence, 0, self.num_tokens, self.block_size, self.allocator.device)
        k, v = (x[0].view(-1, self.hidden_dim)[slots] for x in (self.allocator.keys, self.allocator.values))
        return k, v

    def fork(self) -> "PagedKVCache":
        """A cache with the same past, on the same blocks."""
        child = PagedKVCache(self.block_size, self.hidden_dim, self.allocator)
        child.sequence = self.allocator.cache.fork(self.sequence)
        return child

    def free(self) -> None:
        """Gives the blocks back."""
        self.allocator.cache.release(self.sequence)

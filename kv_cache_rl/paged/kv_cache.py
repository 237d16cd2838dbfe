"""The cache: sequences over a pool, with copy on write."""

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from kv_cache_rl.core.blocks import blocks_for, prefix_hashes
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.paged.block_pool import BlockPool
from kv_cache_rl.paged.errors import whole
from kv_cache_rl.paged.sequences import Sequence, slot_mapping


class CacheError(Refused):
    """A request that makes no sense for this cache or sequence; nothing has changed."""


class KVCache:
    """Keys and values of many sequences in one pool; it lists the sequences that hold blocks."""

    def __init__(self, pool: BlockPool):
        self.pool = pool
        self.copies = 0
        """Blocks copied on write so far."""
        self.live: dict[int, Sequence] = {}
        """Sequences that hold blocks, by id."""
        self._checked: tuple[int, Tensor] | None = None  # slots that may be written, and `freed` then

    def extend(self, sequence: Sequence, count: int) -> Tensor:
        """Room for `count` more tokens: int64 [count] slots to write K/V to, in every layer.

        A last block that other sequences hold too is copied first, so that they do not see the new
        tokens. `length` counts these at once: write them before anything attends.

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

        Raises:
            CacheError: `extend` would raise it.
        """
        self.check_sequence(sequence)
        if whole(count, f"sequence {sequence.id} extended by {count!r} tokens", CacheError) < 0:
            raise CacheError(
                f"sequence {sequence.id} extended by {count} tokens; tokens are added, never taken away"
            )
        return count > 0 and sequence.length % self.pool.block_tokens > 0 and self._last_is_shared(sequence)

    def _last_is_shared(self, sequence: Sequence) -> bool:
        block = sequence.blocks[sequence.length // self.pool.block_tokens]
        if block >= self.pool.blocks:
            raise CacheError(
                f"sequence {sequence.id} would write into block {block}, which is quantised; "
                "only full blocks may be quantised"
            )
        return self.pool.references(block) > 1

    def write(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Writes `k` and `v` [n, kv_heads, head_dim] into `slots` (int64 [n], from `extend`).

        Raises:
            CacheError: slots, shapes, dtypes or values that do not fit this cache, or a slot twice;
                nothing is written.
            PoolError: a slot lies in a free block; nothing is written.
        """
        self._check_slots(slots)
        self.check_write(layer, len(slots), k, v)
        for kept, new in ((self.pool.keys[layer], k), (self.pool.values[layer], v)):
            _wide(kept.flatten(0, 1)).index_copy_(0, slots, _wide(new.contiguous()))

    def _check_slots(self, slots: Tensor) -> None:
        if not isinstance(slots, Tensor) or slots.dtype != torch.int64 or slots.dim() != 1:
            raise CacheError(f"slots are {_kind(slots)}; give int64 [n], as `extend` does")
        room = self.pool.blocks * self.pool.block_tokens
        lowest, highest = (int(x) for x in torch.aminmax(slots)) if len(slots) else (0, 0)
        if lowest < 0 or highest >= room:
            raise CacheError(
                f"slots run from {lowest} to {highest}, the pool has 0 to {room - 1}; "
                "write to those of `extend`"
            )
        # The next layers of a step write to the same slots. A copy, because a tensor may change.
        known = self._checked
        if known and known[0] == self.pool.freed and torch.equal(known[1], slots):
            return
        given = slots.tolist()
        if len(set(given)) < len(given):
            twice = next(slot for slot, count in Counter(given).items() if count > 1)
            raise CacheError(f"slot {twice} is given {given.count(twice)} times; one slot takes one token")
        self.pool.check_held({slot // self.pool.block_tokens for slot in given}, "nothing is written to it")
        self._checked = (self.pool.freed, slots.clone())

    def check_write(self, layer: int, count: int, k: Tensor, v: Tensor) -> None:
        """Raises CacheError unless `write` would take `k` and `v` for `count` slots."""
        pool = self.pool
        if not 0 <= whole(layer, f"layer {layer!r}", CacheError) < pool.layers:
            raise CacheError(f"layer {layer} of a cache with layers 0 to {pool.layers - 1}")
        for name, new in (("k", k), ("v", v)):
            if not isinstance(new, Tensor):
                raise CacheError(f"{name} of layer {layer} is {_kind(new)}; give a tensor")
            if new.shape != (count, pool.kv_heads, pool.head_dim):
                want = f"{[count, pool.kv_heads, pool.head_dim]} (slots, kv heads, head dim)"
                raise CacheError(f"{name} of layer {layer} has shape {list(new.shape)}, not {want}")
            if new.dtype != pool.dtype:
                raise CacheError(
                    f"{name} of layer {layer} is {new.dtype}, the cache holds {pool.dtype}; convert it first"
                )
            if not _finite(new):
                raise CacheError(
                    f"{name} of layer {layer} holds NaN or infinity; nothing is written, "
                    "it would poison all that follows"
                )

    def fork(self, sequence: Sequence) -> Sequence:
        """A sequence with the same past on the same blocks.

        The first of the two that writes into the shared last block gets a copy of it.
        """
        self.check_sequence(sequence)
        for block in sequence.blocks:
            self.pool.share(block)
        child = Sequence(list(sequence.tokens), list(sequence.blocks), sequence.length)
        self._note(child)
        return child

    def release(self, sequence: Sequence) -> None:
        """Frees the sequence's blocks, the last one first: prefixes stay findable longest."""
        self.check_sequence(sequence)
        for block in reversed(sequence.blocks):
            self.pool.drop(block)
        self.live.pop(sequence.id, None)
        sequence.blocks, sequence.length, sequence.released = [], 0, True

    def adopt(self, sequence: Sequence, blocks: list[int], length: int) -> None:
        """Makes `blocks` the table of an empty or released sequence, as at a swap-in.

        The caller has taken one reference to each block.

        Raises:
            CacheError: the sequence has blocks already, or `length` tokens do not fit.
            PoolError: a block is free, or does not exist.
        """
        if sequence.blocks:
            raise CacheError(
                f"sequence {sequence.id} has {len(sequence.blocks)} blocks already; release it first"
            )
        if not 0 <= length <= len(blocks) * self.pool.block_tokens:
            raise CacheError(f"{length} tokens do not fit {len(blocks)} blocks of {self.pool.block_tokens}")
        self.pool.check_held(blocks, f"sequence {sequence.id} cannot hold it")
        sequence.blocks, sequence.length, sequence.released = list(blocks), length, False
        self._note(sequence)

    def reuse(self, sequence: Sequence, tokens: list[int]) -> int:
        """Puts the longest published prefix of `tokens` into the table of the empty `sequence`.

        Returns its length in tokens, 0 if there is none.

        Raises:
            CacheError: the sequence has blocks already.
        """
        if sequence.blocks:
            raise CacheError(
                f"sequence {sequence.id} has {len(sequence.blocks)} blocks already; "
                "only an empty one starts on a prefix"
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
        """Makes the sequence's full blocks findable by later prompts with the same beginning."""
        self.check_sequence(sequence)
        for block, chained in zip(
            sequence.blocks,
            prefix_hashes(sequence.tokens[: sequence.length], self.pool.block_tokens),
            strict=False,
        ):
            self.pool.publish(block, chained)

    def relabel(self, new_of: Mapping[int, int]) -> None:
        """Replaces blocks by others (old → new, just taken) in every table.

        A block changes its format so, for all its holders at once.

        Raises:
            CacheError: a table outside this cache holds one of the old blocks; nothing has changed.
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
                    f"block {block} has {total} references, this cache's tables hold {count}: "
                    "refused for all holders"
                )
        for sequence in self.live.values():
            sequence.blocks[:] = [new_of.get(block, block) for block in sequence.blocks]
        for old, new in new_of.items():
            self.pool.relabel(old, new)

    def check(self) -> None:
        """`BlockPool.check` with the live sequences as holders; each has room for its tokens.

        Raises:
            LedgerError: the books of the pool do not balance.
            CacheError: a sequence counts more tokens than its blocks hold.
        """
        self.pool.check(self.live.values())
        for sequence in self.live.values():
            if sequence.length > len(sequence.blocks) * self.pool.block_tokens:
                raise CacheError(
                    f"sequence {sequence.id} counts {sequence.length} tokens in {len(sequence.blocks)} blocks"
                )

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks that sequences hold, in any format; shared blocks count once."""
        stored = 0
        if self.pool.store is not None:
            stored = self.pool.store.nbytes * self.pool.stored // self.pool.store.blocks
        return self.pool.used * self.pool.block_nbytes + stored

    def _note(self, sequence: Sequence) -> None:
        if sequence.blocks:
            self.live[sequence.id] = sequence

    def check_sequence(self, sequence: Sequence) -> None:
        """Raises CacheError for a sequence that was released or has blocks of another cache."""
        if self.live.get(sequence.id, sequence) is not sequence:
            raise CacheError(
                f"another live sequence of this cache has the id {sequence.id}; leave ids to `Sequence`"
            )
        if sequence.released:
            raise CacheError(
                f"sequence {sequence.id} was released: it has no keys and values any more "
                "(swap it in, or recompute it)"
            )
        if sequence.blocks and sequence.id not in self.live:
            raise CacheError(
                f"sequence {sequence.id} holds {len(sequence.blocks)} blocks of another cache; "
                "use it with that one"
            )


def _kind(thing: object) -> str:
    if isinstance(thing, Tensor):
        return f"{thing.dtype} of shape {list(thing.shape)}"
    return f"a {type(thing).__name__}"


def _wide(rows: Tensor) -> Tensor:
    """The rows [n, ...] as the widest numbers that fill them.

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
    # The extremes are NaN where an element is; `isfinite` on every element takes fifteen times as
    # long.
    return not tensor.numel() or bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())

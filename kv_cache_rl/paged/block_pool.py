"""The pool: the keys and values of each layer, cut into numbered blocks with reference counts.

    free --take--> held (references >= 1) --share / drop--> held --last drop--> free

A published block keeps its contents and its hash while it is free, until `take` hands it out again.
Until then `share` revives it.

Block numbers from `blocks` on belong to an attached store (quantised blocks): the same numbering
and reference counts, another format.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from kv_cache_rl.core import pool as ledger
from kv_cache_rl.paged.books import check_books, check_holders
from kv_cache_rl.paged.errors import whole
from kv_cache_rl.paged.sequences import Sequence
from kv_cache_rl.paged.storage import (
    EXACT,
    FORMATS,
    STORE,
    PoolError,
    Store,
    allocating,
    check_store,
    device_of,
    gather_mixed,
)


class BlockPool:
    """Storage for `blocks` blocks of `block_tokens` tokens, with the reference count of each."""

    def __init__(
        self,
        layers: int,
        blocks: int,
        block_tokens: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ):
        sizes = {
            "layers": layers,
            "blocks": blocks,
            "block_tokens": block_tokens,
            "kv_heads": kv_heads,
            "head_dim": head_dim,
        }
        for name, size in sizes.items():
            if whole(size, f"a pool of {name} = {size!r}", PoolError) < 1:
                raise PoolError(f"a pool of {name} = {size}: every size is at least 1")
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise PoolError(
                f"a pool of {dtype}: keys and values are floating point "
                "(quantised blocks live in an attached store)"
            )
        self.layers, self.blocks, self.block_tokens = layers, blocks, block_tokens
        self.kv_heads, self.head_dim, self.dtype = kv_heads, head_dim, dtype
        shape = (blocks, block_tokens, kv_heads, head_dim)
        place = device_of(device)
        with allocating(blocks, self.block_nbytes, place):
            self.keys = [torch.zeros(shape, dtype=dtype, device=place) for _ in range(layers)]
            self.values = [torch.zeros(shape, dtype=dtype, device=place) for _ in range(layers)]
        self.device = self.keys[0].device
        self.store: Store | None = None
        self.evictions = 0
        """Published blocks that were taken for other contents, so far."""
        self._ledger = np.array([[blocks, 0], [0, 0]])
        self._references = [0] * blocks
        # Oldest first, so that what was freed last stays reusable longest. A dict, because a
        # revived block leaves from the middle.
        self.freed = 0
        """Times that a block became free, so far: between two equal counts no block was given up."""
        self._free: list[dict[int, None]] = [dict.fromkeys(range(blocks)), {}]
        self._block_of: dict[int, int] = {}
        self._hash_of: dict[int, int] = {}

    @property
    def free(self) -> int:
        """Blocks that `take` could hand out now."""
        return int(ledger.free(self._ledger, EXACT))

    @property
    def used(self) -> int:
        """Blocks of the pool's own format with at least one reference."""
        return int(self._ledger[EXACT, ledger.USED])

    @property
    def stored(self) -> int:
        """Blocks of the attached store with at least one reference."""
        return int(self._ledger[STORE, ledger.USED])

    @property
    def numbers(self) -> int:
        """How many block numbers there are, the store's included; they start at 0."""
        return len(self._references)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, the attached store's included."""
        own = sum(tensor.nbytes for tensor in (*self.keys, *self.values))
        return own + (self.store.nbytes if self.store else 0)

    @property
    def block_nbytes(self) -> int:
        """Bytes of K and V of one block over all layers."""
        return 2 * self.layers * self.block_tokens * self.kv_heads * self.head_dim * self.dtype.itemsize

    def attach(self, store: Store) -> None:
        """Numbers the store's blocks behind the pool's own.

        Raises:
            PoolError: the pool has a store already, or this one holds blocks of another shape.
        """
        if self.store is not None:
            raise PoolError(
                f"the pool has a store of {self.store.blocks} blocks already; one pool takes one store"
            )
        check_store(store, (self.layers, *self.keys[0].shape[1:]))
        self.store = store
        self._ledger[STORE, ledger.CAPACITY] = store.blocks
        self._references += [0] * store.blocks
        self._free[STORE] = dict.fromkeys(range(self.blocks, self.blocks + store.blocks))

    def take(self, count: int = 1, form: int = EXACT) -> list[int]:
        """`count` blocks with one reference each, the oldest free ones first.

        They keep their old contents until they are written.

        Raises:
            PoolError: fewer than `count` are free, or it is no count; none is taken.
        """
        if form not in (EXACT, STORE):
            raise PoolError(f"blocks of format {form!r}; give {EXACT} (exact) or {STORE} (the store's)")
        free = int(ledger.free(self._ledger, form))
        if whole(count, f"{count!r} blocks asked for", PoolError) < 0:
            raise PoolError(f"{count} blocks asked for; give a number from 0 on")
        if count > free:
            have, remedy = int(self._ledger[form, ledger.CAPACITY]), "release or swap out a sequence"
            raise PoolError(
                f"{count} {FORMATS[form]} blocks asked for, {free} of {have} are free; {remedy}, or build "
                "a larger pool"
            )
        taken = [block for block, _ in zip(self._free[form], range(count), strict=False)]
        for block in taken:
            self._revive(block)
            if block in self._hash_of:
                self.evictions += 1
                self.forget(block)
        return taken

    def share(self, block: int) -> None:
        """Adds a reference; a free block that is still published is held again.

        Raises:
            PoolError: the block is free and not published, or does not exist.
        """
        if self.references(block):
            self._references[block] += 1
        elif block in self._hash_of:
            self._revive(block)
        else:
            raise PoolError(f"block {block} is free and not published: there is nothing to share")

    def drop(self, block: int) -> None:
        """Takes one reference away; without references the block is free again.

        Raises:
            PoolError: the block is free already, or does not exist.
        """
        if not self.references(block):
            raise PoolError(f"block {block} is free already: dropped once too often (double free)")
        self._references[block] -= 1
        if not self._references[block]:
            form = self._form(block)
            ledger.give(self._ledger, form, 1)
            self._free[form][block] = None
            self.freed += 1
            if form == STORE:
                # A stored block shares its scales with others and is incomplete without them, so
                # that it is not kept for later prompts.
                self.forget(block)

    def references(self, block: int) -> int:
        """How many table entries hold `block`.

        Raises:
            PoolError: there is no such block.
        """
        if not 0 <= whole(block, f"block {block!r}", PoolError) < self.numbers:
            raise PoolError(f"block {block} does not exist: the pool has blocks 0 to {self.numbers - 1}")
        return self._references[block]

    def check_held(self, blocks: Iterable[int], action: str) -> None:
        """Raises PoolError unless every block is held; `action` says what cannot be done with it.

        What a free block holds is another sequence's from its next `take` on.
        """
        counts = self._references
        for block in blocks:
            if not (counts[block] if 0 <= block < len(counts) else self.references(block)):
                raise PoolError(
                    f"block {block} is free: {action}; take it first, or use the table of a live sequence"
                )

    def publish(self, block: int, chained_hash: int) -> None:
        """Makes a full block findable by the chained hash of its tokens.

        The first block published under a hash keeps it.

        Raises:
            PoolError: the block is free, or does not exist.
        """
        if not self.references(block):
            raise PoolError(f"block {block} is free: publish it while it is held")
        if chained_hash not in self._block_of and block not in self._hash_of:
            self._block_of[chained_hash], self._hash_of[block] = block, chained_hash

    @property
    def published(self) -> frozenset[int]:
        """The blocks, held or free, that `lookup` can find."""
        return frozenset(self._hash_of)

    def lookup(self, chained_hash: int) -> int | None:
        """The block, held or free, with this prefix; `share` it before any other block is taken."""
        return self._block_of.get(chained_hash)

    def forget(self, block: int) -> None:
        """Removes a block's hash, if it has one, before its contents change."""
        chained_hash = self._hash_of.pop(block, None)
        if chained_hash is not None:
            del self._block_of[chained_hash]

    def relabel(self, old: int, new: int) -> None:
        """Moves references and hash from `old` to `new` (just taken, one reference); frees `old`.

        A block changes its format so. The caller rewrites every table entry of `old`;
        `KVCache.relabel` does, and refuses where it does not know them all.

        Raises:
            PoolError: `new` has not exactly one reference, or `old` has none.
        """
        if self.references(new) != 1 or not self.references(old):
            counts = f"{self.references(old)} and {self.references(new)}"
            raise PoolError(
                f"block {old} cannot become {new}: they have {counts} references; "
                "take the new one just before"
            )
        chained_hash = self._hash_of.get(old)
        self.forget(old)
        self._references[new], self._references[old] = self._references[old], 1
        self.drop(old)
        if chained_hash is not None:
            self.publish(new, chained_hash)

    def copy(self, source: int, target: int) -> None:
        """Copies K and V of one exact block over another, in every layer.

        Raises:
            PoolError: one of them is free, quantised, or does not exist.
        """
        self.check_held((source, target), "it is neither copied nor written")
        if max(source, target) >= self.blocks:
            raise PoolError(f"block {max(source, target)} is quantised: copy exact blocks")
        for tensor in (*self.keys, *self.values):
            tensor[target].copy_(tensor[source])

    def gather(self, layer: int, blocks: Tensor, out_k: Tensor, out_v: Tensor) -> None:
        """Writes `blocks` (int64 [r], in any format) into `out_k` and `out_v`.

        Both are [r, block_tokens, kv_heads, head_dim].
        """
        if self.store is None or not self.stored or int(blocks.max()) < self.blocks:
            torch.index_select(self.keys[layer], 0, blocks, out=out_k)
            torch.index_select(self.values[layer], 0, blocks, out=out_v)
            return
        gather_mixed(self.keys[layer], self.values[layer], self.store, layer, blocks, out_k, out_v)

    def check(self, holders: Iterable[Sequence] | None = None) -> None:
        """Recounts references, free lists, ledger and hashes.

        With `holders`, the references must be exactly their table entries.

        Raises:
            LedgerError: two of them differ.
        """
        check_books(self._references, self.blocks, self._free, self._ledger)
        if {block: h for h, block in self._block_of.items()} != self._hash_of:
            raise ledger.LedgerError("published hashes and blocks do not match one to one")
        if holders is not None:
            check_holders(self._references, holders)

    def _form(self, block: int) -> int:
        return EXACT if block < self.blocks else STORE

    def _revive(self, block: int) -> None:
        form = self._form(block)
        del self._free[form][block]
        ledger.take(self._ledger, form, 1)
        self._references[block] = 1

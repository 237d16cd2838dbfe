"""Caches with NaN in every slot that no sequence owns: free blocks, block tails, ends of tables."""

import torch

from kv_cache_rl.paged.block_pool import BlockPool
from kv_cache_rl.paged.kv_cache import KVCache
from kv_cache_rl.paged.sequences import Sequence, block_table, lengths

POISON = 0
"""A block without an owner; table ends point to it."""


class Poisoned:
    """A one-layer cache of ragged sequences in shuffled blocks, with the K/V that each should see.

    Some sequences share a prefix.
    """

    def __init__(self, seed, lens, block=16, kv_heads=2, dim=8, dtype=torch.float32, shared=0, device="cpu"):
        rng = torch.Generator().manual_seed(seed)
        self.rng, self.device, self.dtype, self.kv_heads, self.dim = rng, device, dtype, kv_heads, dim
        blocks = 2 + sum(-(-(length + shared) // block) + 1 for length in lens)
        pool = BlockPool(1, blocks, block, kv_heads, dim, dtype, device)
        for tensor in (*pool.keys, *pool.values):
            tensor.fill_(torch.nan)
        shuffled = [1 + int(i) for i in torch.randperm(blocks - 1, generator=rng)]
        pool._free[0] = dict.fromkeys([*shuffled, POISON])
        self.cache = KVCache(pool)
        self.sequences, self.k, self.v = [], [], []
        parent = Sequence()
        prefix = self._write(parent, shared)
        for length in lens:
            sequence = self.cache.fork(parent) if shared else Sequence()
            k, v = self._write(sequence, length)
            self.sequences.append(sequence)
            self.k.append(torch.cat((prefix[0], k)))
            self.v.append(torch.cat((prefix[1], v)))

    def _write(self, sequence, count):
        k, v = (self.normal(count, self.kv_heads, self.dim).to(self.dtype) for _ in range(2))
        if count:
            self.cache.write(0, self.cache.extend(sequence, count), k, v)
        return k, v

    def normal(self, *shape):
        return torch.randn(shape, generator=self.rng).to(self.device)

    def tables(self):
        """Tables that end with the poison, one block wider than needed."""
        table = block_table(
            [*self.sequences, Sequence(blocks=[POISON] * (1 + max(len(s.blocks) for s in self.sequences)))]
        )[:-1]
        owned = torch.arange(table.shape[1]) < torch.tensor([len(s.blocks) for s in self.sequences])[:, None]
        return torch.where(owned, table, POISON).int().to(self.device)

    def lens(self):
        return lengths(self.sequences)

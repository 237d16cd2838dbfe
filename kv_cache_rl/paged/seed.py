"""The interface of the seed project over this engine: one layer, one sequence per cache, plain vectors.

Source: the seed's BlockAllocator, PagedKVCache and PagedAttention. What is cached is projected.
"""

from copy import copy

import torch
from torch import Tensor, nn

from kv_cache_rl.paged.attention import dense_reference, paged_attention
from kv_cache_rl.paged.block_pool import BlockPool
from kv_cache_rl.paged.kernels import AttentionError
from kv_cache_rl.paged.kv_cache import CacheError, KVCache
from kv_cache_rl.paged.sequences import Sequence, slot_mapping


class BlockAllocator(BlockPool):
    """A pool for one layer and plain vectors (the seed's interface); forks share its blocks."""

    def __init__(
        self, total_blocks: int, block_size: int, hidden_dim: int, device: str | torch.device = "cpu"
    ) -> None:
        super().__init__(1, total_blocks, block_size, 1, hidden_dim, device=device)
        self.cache = KVCache(self)

    def allocate(self) -> int:
        """One block, with one reference."""
        return self.take(1)[0]

    def with_heads(self, heads: int) -> BlockPool:
        """The same blocks in the same memory, with vectors of `heads` heads."""
        seen = copy(self)
        seen.kv_heads, seen.head_dim = heads, self.head_dim // heads
        shape = (self.blocks, self.block_tokens, heads, seen.head_dim)
        seen.keys, seen.values = [x.view(shape) for x in self.keys], [x.view(shape) for x in self.values]
        return seen


class PagedKVCache:
    """One sequence's keys and values on an allocator, token by token (the seed's interface)."""

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
        """Caches one token's projected key and value [hidden_dim].

        A block that a fork holds too is copied first.
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
        """Frees the blocks."""
        self.allocator.cache.release(self.sequence)


class PagedAttention(nn.Module):
    """Projections and attention over one sequence's cache of projected keys and values.

    The seed's interface.
    """

    def __init__(self, hidden_dim: int, num_heads: int, block_size: int) -> None:
        super().__init__()
        if min(hidden_dim, block_size) < 1:
            raise AttentionError(
                f"{hidden_dim} hidden numbers, blocks of {block_size} tokens; both are at least 1"
            )
        if num_heads < 1 or hidden_dim % num_heads:
            raise AttentionError(
                f"{hidden_dim} hidden numbers over {num_heads} heads; "
                "the first must be a multiple of the second"
            )
        self.hidden_dim, self.num_heads, self.block_size = hidden_dim, num_heads, block_size
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Linear(hidden_dim, hidden_dim, bias=False) for _ in range(3)
        )

    @torch.no_grad()
    def append(self, states: Tensor, cache: PagedKVCache) -> None:
        """Projects the states [t, hidden_dim] of new tokens to keys and values and caches them."""
        cache.append_token_kv_batch(self.k_proj(states), self.v_proj(states))

    @torch.no_grad()
    def forward_paged(self, query: Tensor, cache: PagedKVCache) -> Tensor:
        """Outputs [1, t, hidden_dim] of states `query`, each over the whole `cache`."""
        if cache.block_size != self.block_size or cache.hidden_dim != self.hidden_dim:
            have = f"{cache.block_size} tokens of {cache.hidden_dim} numbers"
            raise AttentionError(
                f"the cache has blocks of {have}, the layer {self.block_size} of {self.hidden_dim}"
            )
        if query.dim() != 3 or len(query) != 1 or query.shape[2] != self.hidden_dim:
            raise AttentionError(
                f"query has shape {list(query.shape)}, not [1, t, {self.hidden_dim}]: "
                "a cache is one sequence's"
            )
        heads = self.q_proj(query[0]).unflatten(-1, (self.num_heads, -1))
        table = torch.tensor([cache.block_table], dtype=torch.int32).expand(len(heads), -1)
        view = KVCache(cache.allocator.with_heads(self.num_heads))
        out = paged_attention(heads, view, 0, table, torch.full((len(heads),), cache.num_tokens))
        return out.flatten(1)[None]

    @torch.no_grad()
    def forward_vanilla(self, query: Tensor, states: Tensor) -> Tensor:
        """The same in float64 from the states [1, s, hidden_dim] of the cached tokens, without a cache."""
        q, k, v = (
            project(x[0]).unflatten(-1, (self.num_heads, -1))
            for project, x in ((self.q_proj, query), (self.k_proj, states), (self.v_proj, states))
        )
        return dense_reference(q, k, v).flatten(1)[None]

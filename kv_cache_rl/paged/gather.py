"""Blocks scattered over the pool, as the contiguous keys and values that a library kernel takes.

One workspace of 4 MiB is reused for every call and stays in the processor's caches. So gathering a
block costs little more than reading it once, which attention has to do anyway.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.paged.block_pool import BlockPool

CHUNK_TOKENS = 512
WORKSPACE_BYTES = 4 * 2**20
STAGED_TOKENS = 128
"""Tokens converted at a time where the pool's format is not the one computed in.

Few enough to stay in a core's own cache.
"""
ALIASED_BYTES = 2048
"""Rows at a multiple of this distance share few sets of a processor cache and evict each other."""
LINE_BYTES = 64

_workspaces = threading.local()


@dataclass(frozen=True, slots=True)
class Tile:
    """Tokens of some sequences that fit the workspace together.

    Tokens `first` to `first + tokens` of the sequences `begin` to `end`, counted longest first.
    """

    begin: int
    end: int
    first: int
    tokens: int
    """Of the longest of these sequences, in this tile."""
    ragged: bool
    """Whether some of them have fewer tokens in this tile."""


class Workspace:
    """The memory of one tile's keys and values: views of one reused buffer.

    They are cut for a pool's shape and the dtype computed in.
    """

    def __init__(self, pool: BlockPool, dtype: torch.dtype):
        self.block_tokens, self.kv_heads, self.head_dim = pool.block_tokens, pool.kv_heads, pool.head_dim
        self.staged = dtype != pool.dtype
        row, block = pool.kv_heads * pool.head_dim, pool.block_tokens
        stage = blocks_for(STAGED_TOKENS, block) * block * row if self.staged else 0
        aliased = not self.staged and row * dtype.itemsize % ALIASED_BYTES == 0
        self._row = row + (LINE_BYTES // dtype.itemsize if aliased else 0)
        spare = WORKSPACE_BYTES - 2 * stage * pool.dtype.itemsize
        # A block larger than the workspace is one tile all the same.
        self.blocks = max(1, spare // (2 * block * self._row * dtype.itemsize))
        self.chunk = min(max(1, CHUNK_TOKENS // block), self.blocks) * block
        sizes = [(self.blocks * block * self._row, dtype)] * 2 + [(stage, pool.dtype)] * 2
        self._k, self._v, stage_k, stage_v = _carve(pool.device, sizes)
        self._stage_k, self._stage_v = (
            x.view(-1, block, pool.kv_heads, pool.head_dim) for x in (stage_k, stage_v)
        )

    def load(
        self, pool: BlockPool, layer: int, blocks: Tensor, rows: int, blank: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """K and V [rows, kv_heads, m * block_tokens, head_dim] of `blocks` (int64 [rows * m]).

        At most `self.blocks` blocks. The tokens `blank` (int64, numbered over all rows) become 0: a
        weight of 0 is not enough where a block's tail is NaN.
        """
        if self.staged:
            k, v = self._load_staged(pool, layer, blocks)
            shape = (self.kv_heads, rows, -1, self.head_dim)
            if blank is not None:
                k.index_fill_(1, blank, 0.0)
                v.index_fill_(1, blank, 0.0)
            return k.view(shape).transpose(0, 1), v.view(shape).transpose(0, 1)
        tokens, row = len(blocks) * self.block_tokens, self.kv_heads * self.head_dim
        k, v = (x[: tokens * self._row].view(tokens, self._row)[:, :row] for x in (self._k, self._v))
        shape = (len(blocks), self.block_tokens, self.kv_heads, self.head_dim)
        pool.gather(layer, blocks, k.view(shape), v.view(shape))
        if blank is not None:
            k.index_fill_(0, blank, 0.0)
            v.index_fill_(0, blank, 0.0)
        shape = (rows, -1, self.kv_heads, self.head_dim)
        return k.view(shape).transpose(1, 2), v.view(shape).transpose(1, 2)

    def _load_staged(self, pool: BlockPool, layer: int, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """K and V [kv_heads, tokens, head_dim], converted to the dtype computed in."""
        # Converting costs a copy. Made head by head, it gives the kernel rows that lie side by
        # side.
        step, shape = len(self._stage_k), (self.kv_heads, len(blocks), self.block_tokens, self.head_dim)
        used = len(blocks) * self.block_tokens * self._row
        k, v = self._k[:used].view(shape), self._v[:used].view(shape)
        for start in range(0, len(blocks), step):
            part = blocks[start : start + step]
            stage_k, stage_v = self._stage_k[: len(part)], self._stage_v[: len(part)]
            pool.gather(layer, part, stage_k, stage_v)
            k[:, start : start + len(part)].copy_(stage_k.permute(2, 0, 1, 3))
            v[:, start : start + len(part)].copy_(stage_v.permute(2, 0, 1, 3))
        return k.flatten(1, 2), v.flatten(1, 2)

    def tiles(self, lens: list[int]) -> Iterator[Tile]:
        """Tiles that cover every token of sequences of `lens` (longest first) once.

        Each tile has as many sequences as fit.
        """
        for first in range(0, lens[0] if lens else 0, self.chunk):
            begin, active = 0, sum(length > first for length in lens)
            while begin < active:
                tokens = min(self.chunk, lens[begin] - first)
                end = min(active, begin + max(1, self.blocks // blocks_for(tokens, self.block_tokens)))
                yield Tile(begin, end, first, tokens, min(self.chunk, lens[end - 1] - first) < tokens)
                begin = end


def workspace_for(pool: BlockPool, dtype: torch.dtype) -> Workspace:
    """This thread's workspace for pools of that shape."""
    key = (
        pool.block_tokens,
        pool.kv_heads,
        pool.head_dim,
        pool.dtype,
        dtype,
        pool.device,
        CHUNK_TOKENS,
        WORKSPACE_BYTES,
    )
    cut = _workspaces.__dict__.setdefault("cut", {})
    if key not in cut:
        cut[key] = Workspace(pool, dtype)
    return cut[key]


def _carve(device: torch.device, sizes: list[tuple[int, torch.dtype]]) -> list[Tensor]:
    """Flat views of the thread's buffer on a device, one for each (count of numbers, dtype).

    The buffer grows where a single block needs more.
    """
    buffers = _workspaces.__dict__.setdefault("buffers", {})
    size = max(WORKSPACE_BYTES, sum(count * dtype.itemsize for count, dtype in sizes))
    if device not in buffers or buffers[device].numel() < size:
        buffers[device] = torch.empty(size, dtype=torch.uint8, device=device)
        _workspaces.__dict__["cut"] = {}  # those would keep the smaller buffer alive
    parts, start = [], 0
    for count, dtype in sizes:
        parts.append(buffers[device][start : start + count * dtype.itemsize].view(dtype))
        start += count * dtype.itemsize
    return parts

"""What a decode step reads, planned once for all layers: the blocks of each tile and its mask."""

import math
import threading
from dataclasses import dataclass

import torch
from torch import Tensor

from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.paged.block_pool import BlockPool
from kv_cache_rl.paged.gather import Tile, Workspace
from kv_cache_rl.paged.kernels import AttentionError

_last = threading.local()


@dataclass(frozen=True, slots=True)
class Reading:
    """One tile's blocks."""

    tile: Tile
    chunk: int
    blocks: Tensor
    """int64 [r * m], row after row."""
    mask: Tensor | None
    """[r, 1, 1, t], -inf behind the end of a sequence; None where all sequences end together."""
    blank: Tensor | None
    """int64, tokens in the tile that no sequence owns, numbered over all rows."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The tiles of a step over n sequences, longest first."""

    order: Tensor | None
    """int64 [n], the sequences longest first; None where they are given in that order."""
    chunks: int
    readings: list[Reading]


def plan_for(tables: Tensor, lens: Tensor, pool: BlockPool, workspace: Workspace, dtype: torch.dtype) -> Plan:
    """The plan of these tables (int [n, m]) and lengths (int [n]).

    Tables and lengths equal to those of the last call, as in the next layer of the same step, get
    the same plan again.
    """
    key, given = (workspace, id(pool), pool.numbers, pool.freed, dtype), (tables, lens)
    known = _last.__dict__.get("plan")
    if known and known[0] == key and all(map(_same, given, known[1])):
        return known[2]
    plan = _plan(check_tables(tables, lens, len(lens), pool), lens, pool, workspace, dtype)
    # Copies, because shared memory may change without a trace in the tensor.
    _last.__dict__["plan"] = (key, tuple(tensor.clone() for tensor in given), plan)
    return plan


def _same(left: Tensor, right: Tensor) -> bool:
    return left.dtype == right.dtype and left.device == right.device and torch.equal(left, right)


def _plan(tables: Tensor, lens: Tensor, pool: BlockPool, workspace: Workspace, dtype: torch.dtype) -> Plan:
    given: list[int] = lens.tolist()
    order = sorted(range(len(given)), key=lambda row: -given[row])
    ordered, place = [given[row] for row in order], None
    if ordered != given:
        place = torch.tensor(order, device=tables.device)
        tables = tables[place]
    readings = []
    for tile in workspace.tiles(ordered):
        first, count = tile.first // pool.block_tokens, blocks_for(tile.tokens, pool.block_tokens)
        blocks = tables[tile.begin : tile.end, first : first + count].flatten()
        mask, blank = _hidden(tile, ordered, pool, count, dtype) if tile.ragged else (None, None)
        readings.append(Reading(tile, tile.first // workspace.chunk, blocks, mask, blank))
    return Plan(place, blocks_for(ordered[0], workspace.chunk), readings)


def _hidden(
    tile: Tile, lens: list[int], pool: BlockPool, count: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Mask and blank tokens of a ragged tile."""
    size, blank = pool.block_tokens, []
    left = [lens[row] - tile.first for row in range(tile.begin, tile.end)]
    for row, here in enumerate(left):
        # Behind its own blocks a row repeats its first one. That block holds other data only where
        # it is not full.
        stop = count if lens[tile.begin + row] < size else min(count, blocks_for(here, size))
        blank += range(row * count * size + min(here, count * size), (row * count + stop) * size)
    beyond = torch.arange(tile.tokens, device=pool.device) >= torch.tensor(left, device=pool.device)[:, None]
    mask = torch.zeros(beyond.shape, dtype=dtype, device=pool.device).masked_fill_(beyond, -math.inf)
    return mask[:, None, None], torch.tensor(blank, dtype=torch.int64, device=pool.device)


def check_tables(tables: Tensor, lens: Tensor, queries: int, pool: BlockPool) -> Tensor:
    """The tables, int64 [n, m]; entries behind a sequence's own blocks become its first block.

    Raises:
        AttentionError: lengths beyond the table or below 1, block numbers that do not exist, or
            shapes that do not match.
        PoolError: a block that would be read is free.
    """
    if not isinstance(tables, Tensor) or not isinstance(lens, Tensor):
        raise AttentionError(
            f"tables are a {type(tables).__name__}, lengths a {type(lens).__name__}; give tensors"
        )
    if tables.dim() != 2 or len(tables) != queries or lens.shape != (queries,):
        shapes = f"tables of shape {list(tables.shape)}, lengths of shape {list(lens.shape)}"
        raise AttentionError(f"{queries} queries, {shapes}; give [n, m] and [n]")
    if tables.is_floating_point() or lens.is_floating_point():
        raise AttentionError(f"tables are {tables.dtype}, lengths {lens.dtype}; both are whole numbers")
    if not queries:
        return tables.long()
    size, room = pool.block_tokens, tables.shape[1] * pool.block_tokens
    shortest, longest = (int(x) for x in torch.aminmax(lens))
    if shortest < 1 or longest > room:
        blocks = f"{tables.shape[1]} blocks of {size}"
        raise AttentionError(
            f"lengths run from {shortest} to {longest}; the table has room for 1 to {room} ({blocks})"
        )
    needed = (lens.to(tables.device) + size - 1) // size
    owned = torch.arange(tables.shape[1], device=tables.device) < needed[:, None]
    filled = torch.where(owned, tables, tables[:, :1]).long()
    lowest, highest = (int(x) for x in torch.aminmax(filled))
    if lowest < 0 or highest >= pool.numbers:
        raise AttentionError(
            f"tables name blocks {lowest} to {highest}; the pool has blocks 0 to {pool.numbers - 1}"
        )
    pool.check_held(set(filled.flatten().tolist()), "its keys and values are no sequence's")
    return filled

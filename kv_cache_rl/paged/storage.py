"""Where blocks lie: their two formats, a store of another format, and the memory that they take."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from kv_cache_rl.core.errors import Refused

EXACT, STORE = 0, 1
FORMATS = ("exact", "store")


class PoolError(Refused):
    """A request the pool cannot serve; nothing has changed."""


class Store(Protocol):
    """Blocks in another format than the pool's: row r is the block number pool.blocks + r."""

    blocks: int
    nbytes: int
    shape: tuple[int, ...]
    """Layers, block_tokens, kv_heads and head_dim of the blocks that it decodes."""

    def gather(self, layer: int, rows: Tensor, out_k: Tensor, out_v: Tensor) -> None:
        """Writes the decoded blocks of `rows` (int64 [r]) into `out_k` and `out_v`.

        Both are [r, block_tokens, kv_heads, head_dim].
        """


def device_of(device: str | torch.device) -> torch.device:
    """The device of that name.

    Raises:
        PoolError: there is none here, or it holds no values.
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as wrong:
        raise PoolError(f"device {device!r}: torch has none of this name; use cpu or cuda") from wrong
    if found.type == "cuda" and not torch.cuda.is_available():
        raise PoolError(f"device {str(device)!r}: torch finds no GPU here; use cpu")
    try:
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as wrong:
        raise PoolError(f"device {str(device)!r}: torch cannot use it here; use cpu or cuda") from wrong
    if found.type == "meta":
        raise PoolError("device 'meta' holds no values; use cpu or cuda")
    return found


def floating(dtype: torch.dtype) -> torch.dtype:
    """The dtype itself.

    Raises:
        PoolError: it is none of floating point.
    """
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise PoolError(
            f"{dtype!r} is no dtype to compute in; give a floating torch.dtype, such as torch.float32 or "
            "torch.bfloat16 (the device is an argument of its own)"
        )
    return dtype


def check_store(store: Store, shape: tuple[int, ...]) -> None:
    """Raises PoolError unless the store decodes blocks of this shape (`Store.shape`)."""
    if not all(hasattr(store, name) for name in ("blocks", "nbytes", "shape", "gather")):
        raise PoolError(f"{store!r:.60} is no store; give QuantisedBlocks(pool, blocks, bits)")
    if tuple(store.shape) != shape:
        raise PoolError(
            f"the store holds blocks of {list(store.shape)} (layers, tokens, KV heads, dim), the pool of "
            f"{list(shape)}; make the store for this pool: QuantisedBlocks(pool, blocks, bits)"
        )


@contextmanager
def allocating(blocks: int, block_nbytes: int, device: torch.device) -> Iterator[None]:
    """Raises PoolError where memory does not suffice for the tensors that are made inside it.

    On the CPU before any is touched, because Linux grants more memory than it has.
    """
    refusal = PoolError(
        f"a pool of {blocks:,} blocks takes {blocks * block_nbytes:,} bytes, more than {device} has; "
        "give fewer or smaller blocks, that is fewer tokens or sequences"
    )
    machine_nbytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if device.type == "cpu" and blocks * block_nbytes > machine_nbytes:
        raise refusal
    try:
        yield
    except (RuntimeError, MemoryError, OverflowError) as full:
        raise refusal from full


def gather_mixed(
    keys: Tensor, values: Tensor, store: Store, layer: int, blocks: Tensor, out_k: Tensor, out_v: Tensor
) -> None:
    """Writes `blocks` (int64 [r]) of both formats into `out_k` and `out_v`.

    `keys` and `values` are the layer's exact blocks; higher numbers are the store's.
    """
    own, other = ((blocks < len(keys)).nonzero().flatten(), (blocks >= len(keys)).nonzero().flatten())
    out_k[own], out_v[own] = keys[blocks[own]], values[blocks[own]]
    k, v = out_k.new_empty(len(other), *out_k.shape[1:]), out_v.new_empty(len(other), *out_v.shape[1:])
    store.gather(layer, blocks[other] - len(keys), k, v)
    out_k[other], out_v[other] = k, v

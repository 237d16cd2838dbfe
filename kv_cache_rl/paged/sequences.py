"""The blocks that hold a sequence's tokens, and the same as tensors for a kernel."""

import itertools
from collections.abc import Sequence as Many
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kv_cache_rl.paged.errors import RequestError, whole

_numbers = itertools.count()


@dataclass(slots=True, eq=False)
class Sequence:
    """Token ids, and the blocks that hold their keys and values.

    Only the cache changes `blocks` and `length`.
    """

    tokens: list[int] = field(default_factory=list)
    """Ids so far. The K/V of the newest one need not be in the pool yet."""
    blocks: list[int] = field(default_factory=list)
    length: int = 0
    """Tokens with their K/V in the pool."""
    id: int = field(default_factory=lambda: next(_numbers))
    released: bool = False


def block_table(sequences: Many[Sequence], device: str | torch.device = "cpu") -> Tensor:
    """int32 [n, most blocks]: the blocks of each sequence, then 0, which means nothing."""
    most = max((len(sequence.blocks) for sequence in sequences), default=0)
    rows = [sequence.blocks + [0] * (most - len(sequence.blocks)) for sequence in sequences]
    return torch.tensor(rows, dtype=torch.int32, device=device).reshape(len(sequences), most)


def lengths(sequences: Many[Sequence]) -> Tensor:
    """int64 [n]: tokens of each sequence in the pool."""
    return torch.tensor([sequence.length for sequence in sequences], dtype=torch.int64)


def slot_mapping(
    sequence: Sequence, start: int, stop: int, block_tokens: int, device: str | torch.device = "cpu"
) -> Tensor:
    """int64 [stop - start]: the slot of each token position from `start` to `stop`.

    A slot is block * block_tokens + offset.

    Raises:
        RequestError: the sequence's blocks have no room for these positions.
    """
    for at in (start, stop):
        whole(at, f"position {at!r} of sequence {sequence.id}")
    if not 0 <= start <= stop <= len(sequence.blocks) * block_tokens:
        held = f"{len(sequence.blocks)} blocks of {block_tokens}"
        raise RequestError(
            f"positions {start} to {stop} of sequence {sequence.id}: its table has {held}; extend it first"
        )
    first = start // block_tokens
    blocks = torch.tensor(sequence.blocks[first : -(-stop // block_tokens)], dtype=torch.int64)
    slots = (blocks[:, None] * block_tokens + torch.arange(block_tokens)).flatten()
    return slots[start - first * block_tokens : stop - first * block_tokens].to(device)

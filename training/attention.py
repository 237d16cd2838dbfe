"""Attention with fewer heads of keys than of queries, without repeated keys.

transformers' own writes each key once for every query head that shares it: three times as much memory to
move, which is what a CPU waits for when it generates."""

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

GROUPED = "grouped"
"""The name under which models are loaded with it."""


def grouped(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Queries ``[B, H, L, D]`` over keys and values ``[B, G, S, D]``; gives ``[B, L, H, D]``.

    Args:
        attention_mask: ``[B, 1, L, S]``, added to the scores.
    """
    batch, heads, length, width = query.shape
    groups, seen = key.shape[1], key.shape[2]
    together = query.reshape(batch, groups, heads // groups * length, width)
    scores = (together @ key.transpose(2, 3)).view(batch, groups, heads // groups, length, seen) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask[:, :, None, :, :seen]
    shares = torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
    found = shares.view(batch, groups, heads // groups * length, seen) @ value
    return found.view(batch, heads, length, width).transpose(1, 2).contiguous(), None


AttentionInterface.register(GROUPED, grouped)
AttentionMaskInterface.register(GROUPED, eager_mask)

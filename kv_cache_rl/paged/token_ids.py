"""Token ids as a tensor, once they are known to be ids of a vocabulary."""

from collections.abc import Sequence as Many

import torch
from torch import Tensor

from kv_cache_rl.paged.errors import RequestError


def token_ids(tokens: Many[int] | Tensor, name: str, vocab: int, device: torch.device) -> Tensor:
    """The ids as an int64 tensor of their shape; `name` is the model's.

    Raises:
        RequestError: there are none, they are no whole numbers, or some lie outside the vocabulary.
    """
    remedy = f"use whole numbers from 0 to {vocab - 1}"
    try:
        ids = torch.as_tensor(tokens, device=device)
    except (TypeError, ValueError, RuntimeError) as wrong:
        raise RequestError(f"{name}: tokens {tokens!r:.60} are no ids; {remedy}") from wrong
    if ids.numel() == 0:
        raise RequestError(f"{name}: no tokens given; a prompt has at least one")
    if ids.dtype == torch.bool or ids.is_complex():
        raise RequestError(f"{name}: tokens are {ids.dtype}; {remedy}")
    if ids.is_floating_point() or int(ids.min()) < 0 or int(ids.max()) >= vocab:
        raise RequestError(f"{name}: token ids run from {ids.min()} to {ids.max()}; {remedy}")
    return ids.long()

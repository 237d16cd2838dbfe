"""How the attention over one chunk of keys is computed, and how chunks are merged."""

import importlib.util
import math
from collections.abc import Callable

import torch
from torch import Tensor

from kv_cache_rl.core.errors import Refused
from kv_cache_rl.paged.block_pool import BlockPool

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None, bool], tuple[Tensor, Tensor]]
"""(q [r, h, g, dim], k and v [r, h, t, dim], mask added to the scores, causal) → (output like q, log-sum-exp
[r, h, g]).
"""

TRITON = importlib.util.find_spec("triton") is not None


class AttentionError(Refused):
    """Queries, tables, lengths or a backend that do not fit the cache."""


def merge_states(outputs: Tensor, lses: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over the union of chunks: outputs [c, ..., head_dim] and log-sum-exps [c, ...] of each →
    (output, lse).

    A chunk without tokens has lse = -inf; its output counts for nothing, but must be finite.
    """
    lse = torch.logsumexp(lses, 0)
    weights = torch.exp(lses - lse.masked_fill(lse == -math.inf, 0.0))
    return (outputs * weights.unsqueeze(-1)).sum(0), lse


def flash(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> tuple[Tensor, Tensor]:
    """Torch's flash kernel for CPUs, by the name under which it also answers the log-sum-exp."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, attn_mask=mask)


def public(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> tuple[Tensor, Tensor]:
    """The same from public operations, for other devices and for a torch without that name."""
    scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores += mask
    if causal:
        scores.masked_fill_(
            torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu_(1), -math.inf
        )
    lse = torch.logsumexp(scores, -1)
    return torch.matmul(torch.exp(scores - lse.unsqueeze(-1)), v), lse


BACKENDS: dict[str, Kernel | None] = {"flash": flash, "public": public, "triton": None}
"""Name → kernel for a chunk; triton has no chunks but one kernel over the whole table."""


def kernel_for(backend: str, pool: BlockPool) -> Kernel | None:
    """The kernel of a backend, of the fastest usable one for "auto"; None where triton does it all.

    Raises:
        AttentionError: no such backend, or it cannot read this pool.
    """
    device = pool.device.type
    if backend == "auto":
        has_flash = device == "cpu" and hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu")
        backend = (
            "flash"
            if has_flash
            else "triton"
            if device == "cuda" and TRITON and not pool.stored
            else "public"
        )
    if backend not in BACKENDS:
        raise AttentionError(f"no backend {backend!r}; there are auto, {', '.join(BACKENDS)}")
    if backend == "flash" and device != "cpu":
        raise AttentionError(f"backend 'flash' is a kernel for CPUs, the pool lies on {device}; use 'auto'")
    if backend == "triton" and not TRITON:
        raise AttentionError("backend 'triton': triton is not installed; pip install triton, or use 'auto'")
    if backend == "triton" and pool.stored:
        raise AttentionError(
            "backend 'triton': the pool has quantised blocks, which it cannot read; use 'auto'"
        )
    return BACKENDS[backend]

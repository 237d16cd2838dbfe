"""Attention over one chunk of keys, and the merge of chunks."""

import importlib.util
import math
from collections.abc import Callable

import torch
from torch import Tensor

from kv_cache_rl.core.errors import Refused
from kv_cache_rl.paged.block_pool import BlockPool

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None, bool], tuple[Tensor, Tensor]]
"""(q, k, v, mask, causal) → (output, log-sum-exp).

q and the output are [r, h, g, dim], k and v [r, h, t, dim], the log-sum-exp [r, h, g]. The mask is
added to the scores.
"""

TRITON = importlib.util.find_spec("triton") is not None


class AttentionError(Refused):
    """Queries, tables, lengths or a backend that do not fit the cache."""


def merge_states(outputs: Tensor, lses: Tensor) -> tuple[Tensor, Tensor]:
    """(output, log-sum-exp) of attention over the union of c chunks.

    `outputs` [c, ..., head_dim] and `lses` [c, ...] are those of each chunk. A chunk without tokens
    has lse = -inf: its output has no weight, but must be finite.

    Raises:
        AttentionError: the two have not the same chunks and queries.
    """
    if outputs.shape[:-1] != lses.shape:
        raise AttentionError(
            f"outputs of shape {tuple(outputs.shape)} and log-sum-exps of {tuple(lses.shape)}; give one "
            "log-sum-exp for each output, [c, ..., head_dim] and [c, ...]"
        )
    lse = torch.logsumexp(lses, 0)
    weights = torch.exp(lses - lse.masked_fill(lse == -math.inf, 0.0))
    return (outputs * weights.unsqueeze(-1)).sum(0), lse


def flash(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> tuple[Tensor, Tensor]:
    """Torch's flash kernel for CPUs, by the private name that also returns the log-sum-exp."""
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, causal, attn_mask=mask
    )
    # Fewer than 16 scores that are all NaN or -inf it takes for a row that is masked out: 0, with a
    # log-sum-exp of 0. Such rows look like the rare true zeros, so that both are computed again.
    return (out, lse) if lse.all() else public(q, k, v, mask, causal)


def public(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> tuple[Tensor, Tensor]:
    """The same from public operations, for other devices and for a torch without `flash`.

    Where all scores are -inf the output is 0 and the log-sum-exp -inf, as of a chunk without tokens.
    """
    scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores += mask
    if causal:
        scores.masked_fill_(
            torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu_(1), -math.inf
        )
    top = scores.amax(-1, keepdim=True)
    weights = torch.exp(scores - top.masked_fill_(top == -math.inf, 0.0))
    total = weights.sum(-1, keepdim=True)
    # At least 1 where there is a score, because the largest weighs 1. Dividing by it is exact where
    # a log-sum-exp of large scores is not.
    return torch.matmul(weights, v) / total.clamp_min(1.0), (top + total.log()).squeeze(-1)


def settled(output: Tensor, lse: Tensor) -> Tensor:
    """The output over all keys: NaN where no score is above -inf, which a softmax cannot weigh."""
    return output.masked_fill_((lse == -math.inf).unsqueeze(-1), math.nan)


BACKENDS: dict[str, Kernel | None] = {"flash": flash, "public": public, "triton": None}
"""Name → kernel for a chunk; None for triton, with one kernel over the whole table."""


def kernel_for(backend: str, pool: BlockPool) -> Kernel | None:
    """The kernel of a backend; "auto" is the fastest usable one. None for triton (`BACKENDS`).

    Raises:
        AttentionError: no such backend, or it cannot read this pool.
    """
    device = pool.device.type
    if backend == "auto":
        backend = "public"
        if device == "cpu" and hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"):
            backend = "flash"
        elif device == "cuda" and TRITON and not pool.stored:
            backend = "triton"
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

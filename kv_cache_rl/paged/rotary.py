"""Rotary positions: each pair of a head's channels is turned by an angle that grows with the position."""

import math

import torch
from torch import Tensor

from kv_cache_rl.paged.checkpoint import DecoderGeometry


def rotary_frequencies(geometry: DecoderGeometry) -> Tensor:
    """Radians per position of each pair of a head, float64 [head_dim / 2].

    Source: RoFormer, equation 15; Llama 3's scaling as published with its weights (long wavelengths
    divided by `factor`, those between the two bounds blended).
    """
    exponents = torch.arange(0, geometry.head_dim, 2, dtype=torch.float64) / geometry.head_dim
    frequencies = geometry.rope_theta**-exponents
    if geometry.rope_llama3 is None:
        return frequencies
    factor, low, high, context = geometry.rope_llama3
    turns = context * frequencies / (2 * math.pi)
    keep = ((turns - low) / (high - low)).clamp(0, 1)
    return frequencies * (keep + (1 - keep) / factor)


def rotation(frequencies: Tensor, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(cosines, sines) [t, 1, head_dim] of `positions` [t], to be applied by `rotate`."""
    angles = (positions.double()[:, None] * frequencies).repeat(1, 2)[:, None]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """`x` [..., t, heads, head_dim] turned by its positions.

    A pair is (i, i + head_dim / 2), as in the Hugging Face weights.
    """
    a, b = x.chunk(2, -1)
    return x * cosines + torch.cat((-b, a), -1) * sines

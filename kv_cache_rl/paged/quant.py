"""Keys and values at 8, 4 or 2 bits: packed integers with a 16-bit scale and zero per group.

`quantised_blocks` says which numbers share a group.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kv_cache_rl.core.errors import Refused
from kv_cache_rl.core.precision import PRECISIONS
from kv_cache_rl.paged.errors import whole

BITS = {name: PRECISIONS[name].bits for name in ("int8", "int4", "int2")}
"""Scheme → bits of a value."""
SCALE_DTYPE = torch.float16


class QuantError(Refused):
    """Something cannot be quantised as asked: says what, where, and what to do."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A tensor as integers of few bits: value = zero + scale x code."""

    codes: Tensor
    """uint8, the tensor's shape with the last dimension packed as `pack` does."""
    scale: Tensor
    """float16, the tensor's shape with one number for `group` numbers along `axis`."""
    zero: Tensor
    """float16, like the scale."""
    bits: int
    axis: int
    group: int

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zeros together."""
        return self.codes.nbytes + self.scale.nbytes + self.zero.nbytes


def quantise(x: Tensor, bits: int, axis: int, group: int | None = None) -> Packed:
    """The tensor at `bits`; `group` neighbours along `axis` share a scale (None: all of them).

    Scales are rounded up and zeros down to 16 bits, so that no value falls outside:
    |x - dequantised| <= scale / 2.

    Raises:
        QuantError: bits, axis or group do not fit, or the tensor holds NaN, infinities or numbers
            too large for 16 bits.
    """
    if not isinstance(x, Tensor):
        raise QuantError(f"{x!r:.60} is no tensor; give keys or values as one")
    if not -x.dim() <= whole(axis, f"axis {axis!r}", QuantError) < x.dim():
        raise QuantError(f"shape {tuple(x.shape)} has no axis {axis}; give one of its own")
    axis = axis % x.dim()
    group = x.shape[axis] if group is None else whole(group, f"groups of {group!r}", QuantError)
    check_fits(x, bits, axis, group)
    parts = x.float().unflatten(axis, (-1, group))
    low, high = parts.amin(axis + 1), parts.amax(axis + 1)
    check_finite(low, high)
    zero = _rounded(low, down=True)
    scale = _rounded((high - zero.float()) / (2**bits - 1), down=False)
    steps = scale.float().unsqueeze(axis + 1)
    # A group of equal values that 16 bits hold exactly has scale 0. Its codes are 0 with any
    # divisor.
    codes = (
        ((parts - zero.float().unsqueeze(axis + 1)) / steps.clamp_min(2.0**-24))
        .round_()
        .clamp_(0, 2**bits - 1)
    )
    return Packed(pack(codes.flatten(axis, axis + 1).to(torch.uint8), bits), scale, zero, bits, axis, group)


def dequantise(packed: Packed, dtype: torch.dtype = torch.float32) -> Tensor:
    """The tensor with its values restored, in its old shape."""
    scale, zero = (
        packed.scale.to(dtype).unsqueeze(packed.axis + 1),
        packed.zero.to(dtype).unsqueeze(packed.axis + 1),
    )
    codes = unpack(packed.codes, packed.bits).unflatten(packed.axis, (-1, packed.group))
    return torch.addcmul(zero, codes.to(dtype), scale).flatten(packed.axis, packed.axis + 1)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes (uint8) with the last dimension packed, ``8 / bits`` to a byte, the first one lowest.

    >>> pack(torch.tensor([1, 2, 3, 4], dtype=torch.uint8), 4).tolist()
    [33, 67]
    """
    if bits == 8:
        return codes
    parts = codes.unflatten(-1, (-1, 8 // bits))
    packed = parts[..., 0].clone()
    for place in range(1, 8 // bits):
        packed |= parts[..., place] << (bits * place)
    return packed


def unpack(packed: Tensor, bits: int) -> Tensor:
    """The codes that `pack` packed."""
    if bits == 8:
        return packed
    places = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    return ((packed.unsqueeze(-1) >> places) & (2**bits - 1)).flatten(-2)


def check_fits(x: Tensor, bits: int, axis: int, group: int) -> None:
    """Raises QuantError unless a tensor like `x` can be packed so."""
    if bits not in BITS.values():
        raise QuantError(
            f"{bits} bits are no scheme; use one of {', '.join(f'{n} ({s})' for s, n in BITS.items())}"
        )
    if not x.dtype.is_floating_point:
        raise QuantError(f"{x.dtype} is not quantised; give floating-point keys or values")
    if x.numel() == 0 or group < 1 or x.shape[axis] % group:
        raise QuantError(
            f"shape {tuple(x.shape)}: {x.shape[axis]} along axis {axis} are not whole groups of {group}; "
            "pad or regroup"
        )
    if x.shape[-1] % (8 // bits):
        raise QuantError(
            f"{x.shape[-1]} values at {bits} bits do not fill bytes; "
            f"the last dimension must be a multiple of {8 // bits}"
        )


def check_finite(low: Tensor, high: Tensor) -> None:
    """Raises QuantError for NaN, infinities and numbers beyond what a 16-bit scale can hold."""
    worst = torch.stack((low, high)).abs().max()  # NaN where there is one
    if not worst < torch.finfo(SCALE_DTYPE).max / 2:
        raise QuantError(
            f"the largest value to quantise is {float(worst)}; "
            "repair NaN and infinities, or leave the block exact"
        )


def _rounded(x: Tensor, down: bool) -> Tensor:
    """The nearest float16 numbers that are not above `x`, or not below."""
    near = x.to(SCALE_DTYPE)
    far = torch.nextafter(near, torch.full_like(near, -torch.inf if down else torch.inf))
    return torch.where(near.float() > x if down else near.float() < x, far, near)

"""Mean lengths and footprint of a workload, for uniform lengths and for samples.

Also the three workloads of the paper.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from kv_cache_rl.theory.condition import footprint, whole
from kv_cache_rl.theory.errors import StabilityError


@dataclass(frozen=True, slots=True)
class Lengths:
    """What the condition needs of prompts s and outputs o; means, in tokens."""

    footprint: float
    """E[g], token-iterations."""
    prompt: float
    output: float
    squared_prompt: float
    longest: int
    """max(s + o), not a mean."""


def uniform_lengths(
    prompt: tuple[int, int], output: tuple[int, int], chunk: int = 512, block: int = 1
) -> Lengths:
    """Exact means for prompts and outputs that are independent and uniform over whole numbers.

    Both ends belong to a range. g is a part of s, plus the product s o, plus a part of o, so that
    no pair need be enumerated. With blocks the middle part is no product, and every pair is
    enumerated.

    >>> round(uniform_lengths((10, 1600), (10, 1600)).footprint)
    1079498
    """
    for name, (low, high) in (("prompt", prompt), ("output", output)):
        if not 0 <= low <= high:
            raise StabilityError(
                f"{name} lengths run from {low} to {high}; give the smaller one, from 0 on, first"
            )
    s, o = np.arange(prompt[0], prompt[1] + 1), np.arange(output[0], output[1] + 1)
    if block == 1:
        mean = _mean(footprint(s, 0, chunk)) + _mean(s) * _mean(o) + _mean(footprint(0, o, chunk))
    else:
        mean = float(np.mean([_mean(footprint(one, o, chunk, block)) for one in s]))
    return Lengths(mean, _mean(s), _mean(o), _mean(s * s), prompt[1] + output[1])


def sampled_lengths(prompts: ArrayLike, outputs: ArrayLike, chunk: int = 512, block: int = 1) -> Lengths:
    """Means over requests, given as two columns [R] of tokens.

    Raises:
        StabilityError: the columns differ in length, are empty, or hold what is no number of
            tokens.
    """
    s, o = whole("prompts", prompts, 0).ravel(), whole("outputs", outputs, 0).ravel()
    if s.size != o.size or not s.size:
        raise StabilityError(
            f"{s.size} prompts and {o.size} outputs; give one of each per request, and at least one request"
        )
    return Lengths(_mean(footprint(s, o, chunk, block)), _mean(s), _mean(o), _mean(s * s), int((s + o).max()))


def _mean(values: np.ndarray) -> float:
    """The mean of whole numbers, rounded once: their sum is a whole number too."""
    return int(values.sum()) / values.size


@dataclass(frozen=True, slots=True)
class Published:
    """A workload of the paper, and the numbers that the paper reports for it."""

    prompt: tuple[int, int]
    output: tuple[int, int]
    footprint: float
    predicted: float
    """Requests per second, from the formula."""
    measured: float


PUBLISHED_CHUNK, PUBLISHED_MEMORY = 512, 131_000
PUBLISHED: dict[str, Published] = {
    "balanced": Published((10, 1600), (10, 1600), 1_075_439, 3.263, 3.387),
    "long-prompt": Published((10, 2133), (10, 1066), 770_044, 3.956, 3.650),
    "long-output": Published((10, 1066), (10, 2133), 1_338_307, 2.902, 2.969),
}
"""A100, Llama-3-8B, chunks of 512 tokens, 131,000 tokens of KV.

Source: arXiv:2605.04595; its footprints are sample means.
"""

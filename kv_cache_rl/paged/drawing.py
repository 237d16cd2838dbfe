"""Tokens drawn from logits, and the requests for which there is something to draw."""

from __future__ import annotations

from collections.abc import Sequence as Many
from collections.abc import Sized

import numpy as np
import torch
from torch import Tensor

from kv_cache_rl.core.draws import mixed
from kv_cache_rl.paged.errors import RequestError, number, whole

SEEDS = (-(2**63), 2**64 - 1)
"""The lowest and the highest seed that torch takes."""


def generator_of(seed: int) -> torch.Generator:
    """The stream of random numbers of one sample.

    Torch's own stream reads the low 32 bits of a seed alone; larger and negative ones are mixed into them.

    Raises:
        RequestError: the seed is no whole number of 64 bits.
    """
    if not SEEDS[0] <= whole(seed, f"{seed!r} as a seed") <= SEEDS[1]:
        raise RequestError(f"{seed} as a seed; give a whole number from {SEEDS[0]} to {SEEDS[1]}")
    word = int(seed)
    if not 0 <= word < 2**32:
        word = int(mixed(np.array([word % 2**64], np.uint64))[0]) >> 32
    return torch.Generator().manual_seed(word)


def drawn(logits: Tensor, generator: torch.Generator, temperature: float = 1.0) -> int:
    """A token drawn from `logits` [vocab].

    It takes one uniform number and compares it with the running sum of probabilities, so that two
    rows that differ by rounding give the same token.
    """
    exact = logits.double().cpu()
    # The largest becomes 0 before the division, which would overflow at temperatures near 0.
    below = ((exact - exact.max()) / temperature).softmax(-1).cumsum(-1)
    at = torch.searchsorted(
        below, torch.rand(1, generator=generator, dtype=torch.float64) * below[-1], right=True
    )
    return min(int(at), len(below) - 1)


def check_request(prompt: Many[int], count: int, temperature: float = 1.0) -> None:
    """Raises RequestError for an empty prompt, nothing to generate, or a temperature not above 0."""
    if isinstance(prompt, str | bytes) or not isinstance(prompt, Sized) or not getattr(prompt, "ndim", 1):
        raise RequestError(f"a prompt {prompt!r:.60}; give token ids, such as those of `tokenizer.encode`")
    if not len(prompt) or whole(count, f"{count!r} tokens to generate") < 1:
        raise RequestError(
            f"a prompt of {len(prompt)} tokens and {count} to generate; give at least one of each"
        )
    if not 0 < number(temperature, f"a temperature of {temperature!r}") < float("inf"):
        raise RequestError(f"a temperature of {temperature}; give a finite one above 0, or decode greedily")

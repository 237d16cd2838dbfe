"""Whether a service can hold its load at all: footprint, service rate, verdict, GPUs needed.

    g(s, o)  tokens held, summed over a request's iterations
    M        tokens of KV that fit
    b        seconds of a representative iteration
    mu       M / (b E[g]), requests per second

    lambda > mu                overloaded under any policy
    lambda < mu (1 - delta)    stable if work-conserving; delta = max(s + o) / M

Source: Nie, Si, Zhou, "A Queueing-Theoretic Framework for Stability Analysis of LLM Inference with
KV Cache Memory Constraints", ICML 2026, arXiv:2605.04595. Beyond the paper: the engine's token
budget may bind before memory does.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kv_cache_rl.core.hardware import HardwareProfile
from kv_cache_rl.theory.errors import StabilityError

MEMORY, TOKEN_BUDGET = "memory", "token budget"
STABLE, UNDECIDED, OVERLOADED = "stable", "undecided", "overloaded"
HEAVY_TAIL = 1.5
"""Iteration times with a mean above this many medians are summarised by their trimmed mean."""


def positive(name: str, value: float) -> float:
    """The value as a float.

    Raises:
        StabilityError: it is not finite and above 0.
    """
    if not (math.isfinite(value) and value > 0):
        raise StabilityError(f"{name} is {value}; give a finite number above 0")
    return float(value)


def whole(name: str, values: ArrayLike, least: int) -> NDArray[np.int64]:
    """The values as int64, in the shape given.

    Raises:
        StabilityError: a value is no whole number, below `least`, or above 2^31.
    """
    given = np.asarray(values)
    if given.dtype.kind not in "iu" and not (given.dtype.kind == "f" and bool(np.all(np.mod(given, 1) == 0))):
        raise StabilityError(f"{name} must be whole numbers of tokens; round them first")
    if given.size and given.min() < least:
        raise StabilityError(f"{name} has {given.min()}; the least is {least}")
    if given.size and given.max() > 2**31:
        raise StabilityError(f"{name} has {given.max()} tokens; the most is {2**31}")
    return given.astype(np.int64)


def chunk_within(chunk: int, token_budget: float) -> int:
    """Tokens of a prompt that an iteration computes: a chunk, and never more than its budget allows."""
    return int(max(min(chunk, token_budget), 1))


def footprint(
    prompt: ArrayLike, output: ArrayLike, chunk: int = 512, block: int = 1, up_front: bool = False
) -> NDArray[np.int64]:
    """Tokens held by a request, summed over its iterations: int64, shaped as the lengths broadcast.

    After prefill chunk k it holds min(k chunk, s) tokens, and with output token t it holds s + t.
    These are rounded up to whole blocks of `block` tokens. With `up_front`, the blocks of the
    prompt and of one more token are taken at admission, as engines do.

    >>> int(footprint(1000, 2, chunk=512))
    3515
    """
    s, o = whole("prompt", prompt, 0), whole("output", output, 0)
    if min(chunk, block) < 1:
        raise StabilityError(f"chunk is {chunk} and block is {block}; both are at least 1 token")
    if max(chunk, block) > 2**31:
        raise StabilityError(f"chunk is {chunk} and block is {block}; both are at most {2**31} tokens")
    chunks = -(-s // chunk)
    if up_front:
        prefill = chunks * -(-(s + 1) // block) * block
    elif chunk % block == 0:
        prefill = chunk * chunks * (chunks - 1) // 2 + np.minimum(chunks, 1) * (-(-s // block) * block)
    else:
        raise StabilityError(
            f"chunks of {chunk} tokens are not whole blocks of {block}; make the chunk a multiple"
        )
    return np.asarray(prefill + block * (_blocks_up_to(s + o, block) - _blocks_up_to(s, block)))


def _blocks_up_to(tokens: NDArray[np.int64], block: int) -> NDArray[np.int64]:
    """The blocks that k tokens take, summed over k = 1..tokens."""
    full, rest = tokens // block, tokens % block
    return block * full * (full + 1) // 2 + rest * (full + 1)


@dataclass(frozen=True, slots=True)
class ServiceRate:
    """Requests per second that a service completes at saturation, and the resource that binds."""

    memory_rate: float
    budget_rate: float
    """Infinite where no token budget was given."""

    @property
    def per_s(self) -> float:
        return min(self.memory_rate, self.budget_rate)

    @property
    def binding(self) -> str:
        """The resource that binds: MEMORY or TOKEN_BUDGET."""
        return TOKEN_BUDGET if self.budget_rate < self.memory_rate else MEMORY


def service_rate(
    memory_tokens: float,
    batch_s: float,
    mean_footprint: float,
    token_budget: float = math.inf,
    mean_prompt: float = 0.0,
) -> ServiceRate:
    """mu = min(M / (b E[g]), token budget / (b E[s])).

    `mean_prompt` is what a request takes out of the token budget: its prompt, or prompt + output
    where decoded tokens count too (vLLM, our engine).

    >>> service_rate(131_000, 0.0373, 1_079_498).binding
    'memory'
    """
    positive("memory_tokens", memory_tokens)
    positive("batch_s", batch_s)
    positive("mean_footprint", mean_footprint)
    if not token_budget > 0 or not mean_prompt >= 0:
        given = f"token_budget is {token_budget}, mean_prompt {mean_prompt}"
        raise StabilityError(f"{given}; give a budget above 0, tokens from 0 on")
    budget_rate = token_budget / (batch_s * mean_prompt) if mean_prompt > 0 else math.inf
    return ServiceRate(memory_tokens / (batch_s * mean_footprint), budget_rate)


def delta(longest_tokens: float, memory_tokens: float) -> float:
    """Share of the memory that the longest request (prompt + output) takes; above 1 it never fits."""
    return positive("longest_tokens", longest_tokens) / positive("memory_tokens", memory_tokens)


def verdict(arrival_rate: float, rate: float, share: float) -> str:
    """OVERLOADED above `rate`, STABLE below rate (1 - `share`), else UNDECIDED; `share` is `delta`.

    >>> verdict(3.4, 3.263, 0.024), verdict(3.0, 3.263, 0.024), verdict(3.2, 3.263, 0.024)
    ('overloaded', 'stable', 'undecided')
    """
    if not (arrival_rate >= 0 and rate >= 0 and share >= 0):  # NaN is not, either
        raise StabilityError(
            f"arrival_rate {arrival_rate}, rate {rate}, share {share} must be numbers from 0 on; mend them"
        )
    if arrival_rate > rate:
        return OVERLOADED
    return STABLE if arrival_rate < rate * (1.0 - share) else UNDECIDED


def gpus_needed(arrival_rate: float, rate_per_gpu: float, target_utilisation: float = 1.0) -> int:
    """Fewest GPUs, at least 1, that serve `arrival_rate` at or below the target utilisation.

    Each serves `rate_per_gpu`; rates are per second.

    >>> gpus_needed(10.0, 3.0, 0.8)
    5
    """
    if not 0 < target_utilisation <= 1:
        raise StabilityError(f"target_utilisation is {target_utilisation}; give a share above 0, at most 1")
    if not (math.isfinite(arrival_rate) and arrival_rate >= 0):
        raise StabilityError(f"arrival_rate is {arrival_rate}; give requests per second, 0 or more")
    exact = arrival_rate / (target_utilisation * positive("rate_per_gpu", rate_per_gpu))
    # A quotient a rounding error above an integer is that integer.
    return max(1, math.ceil(exact * (1.0 - 1e-12)))


def representative_batch_s(seconds: ArrayLike) -> float:
    """The b of iteration times [n]: their median, or a trimmed mean where the tail is heavy.

    The trimmed mean leaves out 10 % at either end.
    """
    times = np.sort(np.asarray(seconds, dtype=float).ravel())
    if not times.size or not np.all(np.isfinite(times)) or times[0] <= 0:
        raise StabilityError("iteration times must be finite and above 0, and there must be at least one")
    median = float(np.median(times))
    if times.mean() <= HEAVY_TAIL * median:
        return median
    cut = times.size // 10
    return float(times[cut : times.size - cut].mean())


def saturated_tick_s(
    hardware: HardwareProfile,
    memory_tokens: float,
    mean_footprint: float,
    mean_prompt: float,
    token_budget: float = math.inf,
    *,
    mean_squared_prompt: float | None = None,
    mean_output: float = 0.0,
) -> float:
    """Seconds of an iteration at saturation, as a fluid: fixed + prefill of arrivals + KV read.

    At saturation x = min(M / E[g], budget / E[s]) requests begin, and as many end, per iteration.
    Each brings its prefill, and x E[g] tokens are held: all of M where memory binds. Without
    `mean_squared_prompt` all prompts count as equally long, which makes attention too cheap. With
    `mean_output`, decoded tokens are taken out of the token budget too.
    """
    begun = service_rate(memory_tokens, 1.0, mean_footprint, token_budget, mean_prompt + mean_output).per_s
    squared = mean_prompt**2 if mean_squared_prompt is None else mean_squared_prompt
    return tick_s(hardware, begun, mean_footprint, mean_prompt, squared)


def prefill_work_s(hardware: HardwareProfile, tokens: float, pairs: float) -> float:
    """Seconds to prefill `tokens` tokens with `pairs` pairs (token, earlier token).

    A whole prompt of s tokens has s^2 / 2 pairs.
    """
    return hardware.prefill_c1_s * tokens + hardware.prefill_c2_s * pairs


def tick_s(
    hardware: HardwareProfile,
    begun: float,
    mean_footprint: float,
    mean_prompt: float,
    mean_squared_prompt: float,
) -> float:
    """Seconds of an iteration in which `begun` requests begin and as many end."""
    work = prefill_work_s(hardware, mean_prompt, mean_squared_prompt / 2)
    return hardware.decode_fixed_s + begun * (work + hardware.decode_per_kv_token_s * mean_footprint)

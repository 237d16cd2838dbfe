"""Prefix hits: they raise the service rate, the load takes their memory, two states may be stable.

    hits p -> less work per request -> shorter iterations -> fewer tokens held -> more memory free
           -> hits p'

    held(lambda, p)   A = lambda b g(p), at most M, with b = fixed + lambda b (work(p) + kv g(p))
    found(lambda, A)  p' = 1 - exp(-T / think) where an LRU that holds idle caches for T fills the rest:
                      M - A = lambda kept ((1 - q) T + q think (1 - exp(-T / think)))

Every completed request leaves a cache of `kept` tokens. With probability q its user returns after
an exponential think time and takes the cache over. Nothing else takes idle caches (Che's
approximation of LRU).

A fixed point p = p' is stable where p' crosses p from above. Where memory is full nothing is found,
and if that state is overloaded it lasts. So a service that has collapsed recovers only below mu(0),
although it would stay healthy up to the fold.

Source: footprint and mu from condition.py; Che, Tung, Wang (2002) for T. The map and its region are
this project's.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from kv_cache_rl.core.hardware import HardwareProfile
from kv_cache_rl.theory.condition import (
    ServiceRate,
    chunk_within,
    footprint,
    positive,
    prefill_work_s,
    service_rate,
    whole,
)
from kv_cache_rl.theory.errors import StabilityError

GRID = 4097
BISECTIONS = 60


@dataclass(frozen=True, slots=True)
class Reuse:
    """A service and its workload, as the map needs them.

    `found` is the share of the returning users' history that is still in memory.
    """

    memory_tokens: float
    fixed_s: float
    """Of an iteration, before prefill and KV reads."""
    kv_token_s: float
    """To read one cached token, once."""
    footprint: float
    """E[g], token-iterations, nothing found."""
    footprint_found: float
    """E[g] with all history found: fewer prefill iterations."""
    work_s: float
    """Mean seconds of prefill per request, nothing found."""
    work_found_s: float
    prompt: float
    """Mean tokens."""
    history: float
    """Mean tokens of the prompt that an endless cache would spare."""
    kept: float
    """Mean tokens a completed request leaves as an idle cache: prompt + output."""
    returns: float
    """Probability q that its user comes back."""
    think_s: float
    """Mean seconds from a completion to the user's return."""
    token_budget: float = math.inf
    """Prompt tokens per iteration."""

    def __post_init__(self) -> None:
        for name in ("memory_tokens", "fixed_s", "footprint", "footprint_found", "prompt", "kept", "think_s"):
            positive(name, getattr(self, name))
        if not (
            min(self.kv_token_s, self.work_s, self.work_found_s) >= 0 and 0 <= self.history <= self.prompt
        ):
            raise StabilityError(
                "seconds are 0 or more, and the history is part of the prompt; check the lengths"
            )
        if not 0 <= self.returns <= 1:
            raise StabilityError(
                f"returns is {self.returns}; give the share of requests with a user who comes back, 0 to 1"
            )

    def blend(self, found):
        """Mean footprint, prefill seconds and prompt tokens to compute, at this share found.

        Linear in it: each return finds all of its history or nothing.
        """
        return (
            self.footprint + found * (self.footprint_found - self.footprint),
            self.work_s + found * (self.work_found_s - self.work_s),
            self.prompt - found * self.history,
        )


def reuse_of(
    prompts: ArrayLike,
    outputs: ArrayLike,
    histories: ArrayLike,
    *,
    hardware: HardwareProfile,
    memory_tokens: float,
    think_s: float,
    chunk: int = 512,
    token_budget: float = math.inf,
) -> Reuse:
    """The map's numbers from three columns of lengths [R], in tokens.

    `histories` are the leading tokens of each prompt that a cache could spare.

    Raises:
        StabilityError: the columns differ in length, are empty, or a history exceeds its prompt.
    """
    s, o, history = (
        whole(n, v, 0).ravel()
        for n, v in (("prompts", prompts), ("outputs", outputs), ("histories", histories))
    )
    if not (s.size == o.size == history.size > 0) or np.any(history > s):
        raise StabilityError(
            "prompts, outputs and histories are columns of one length, and no history exceeds its prompt"
        )
    new = s - history
    chunk = chunk_within(chunk, token_budget)
    iterations = -(-new // chunk)
    found = footprint(s, o, chunk) - footprint(s, 0, chunk) + footprint(new, 0, chunk) + history * iterations
    pairs, pairs_found = s * s / 2.0, new * (history + new / 2.0)
    return Reuse(
        memory_tokens=memory_tokens,
        fixed_s=hardware.decode_fixed_s,
        kv_token_s=hardware.decode_per_kv_token_s,
        footprint=float(footprint(s, o, chunk).mean()),
        footprint_found=float(found.mean()),
        work_s=prefill_work_s(hardware, float(s.mean()), float(pairs.mean())),
        work_found_s=prefill_work_s(hardware, float(new.mean()), float(pairs_found.mean())),
        prompt=float(s.mean()),
        history=float(history.mean()),
        kept=float((s + o).mean()),
        returns=float((history > 0).mean()),
        think_s=think_s,
        token_budget=token_budget,
    )


def service_rate_at(reuse: Reuse, found: float) -> ServiceRate:
    """mu where this share of the history is found; b is the saturated iteration of the same state.

    This is mu(h) with h = found * history / prompt, the share of all prompt tokens found.
    """
    if not 0 <= found <= 1:
        raise StabilityError(f"found is {found}; give the share of the history that is found, 0 to 1")
    held, work, prompt = reuse.blend(found)
    begun = service_rate(reuse.memory_tokens, 1.0, held, reuse.token_budget, prompt).per_s
    batch_s = reuse.fixed_s + begun * (work + reuse.kv_token_s * held)
    return service_rate(reuse.memory_tokens, batch_s, held, reuse.token_budget, prompt)


def held_tokens(reuse: Reuse, arrival_rate: float, found: float) -> float:
    """Tokens that running requests hold; the whole memory if this state cannot serve the load."""
    return float(_held(reuse, arrival_rate, np.asarray([found]))[0])


def _held(reuse: Reuse, arrival_rate: float, found: np.ndarray) -> np.ndarray:
    held, work, prompt = reuse.blend(found)
    begun = np.minimum(reuse.memory_tokens / held, reuse.token_budget / np.maximum(prompt, 1e-300))
    served = begun / (reuse.fixed_s + begun * (work + reuse.kv_token_s * held))
    idle = 1.0 - arrival_rate * (work + reuse.kv_token_s * held)
    with np.errstate(divide="ignore"):
        needed = arrival_rate * held * reuse.fixed_s / np.maximum(idle, 0.0)
    return np.where(arrival_rate >= served, reuse.memory_tokens, np.minimum(needed, reuse.memory_tokens))


def _needed(reuse: Reuse, arrival_rate: float, found: np.ndarray) -> np.ndarray:
    """Tokens of idle caches with which this share of the history is found."""
    with np.errstate(divide="ignore", invalid="ignore"):
        gone = (
            np.where(found < 1, -np.log1p(-found), np.inf) * (1 - reuse.returns) if reuse.returns < 1 else 0.0
        )
    return arrival_rate * reuse.kept * reuse.think_s * (gone + reuse.returns * found)


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """A state that reproduces itself: shares of history found and of memory in use by requests."""

    found: float
    occupancy: float
    stable: bool


def fixed_points(reuse: Reuse, arrival_rate: float) -> tuple[FixedPoint, ...]:
    """All fixed points at this rate, the emptiest memory last.

    There is at least one, and stable and unstable ones alternate.
    """
    positive("arrival_rate", arrival_rate)

    def gaps_at(found: np.ndarray) -> np.ndarray:
        return reuse.memory_tokens - _held(reuse, arrival_rate, found) - _needed(reuse, arrival_rate, found)

    def gap(found: float) -> float:
        return float(gaps_at(np.asarray([found]))[0])

    shares = np.linspace(0.0, 1.0, GRID)
    gaps = gaps_at(shares)
    # A full memory finds nothing, and that reproduces itself. So does a memory that loses nothing.
    roots: list[tuple[float, bool]] = [(0.0, True)] if gaps[0] <= 0 else []
    for at in np.flatnonzero((gaps[:-1] > 0) != (gaps[1:] > 0)):
        roots.append((_bisect(gap, float(shares[at]), float(shares[at + 1])), bool(gaps[at] > 0)))
    roots += [(1.0, True)] if gaps[-1] >= 0 else []
    memory = reuse.memory_tokens
    return tuple(
        FixedPoint(root, held_tokens(reuse, arrival_rate, root) / memory, stable) for root, stable in roots
    )


def _bisect(function, low: float, high: float) -> float:
    """The place between `low` and `high` where the function's sign changes."""
    rising = function(high) > 0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if (function(middle) > 0) == rising:
            high = middle
        else:
            low = middle
    # The side with less memory held: at a jump (service rate reached) only one side is a state.
    return high if not rising else low


def bistable_region(reuse: Reuse, points: int = 200) -> tuple[float, float] | None:
    """The ends of the hysteresis loop: rates per second between which two points are stable.

    Below the first a collapsed service recovers by itself. Above the second a healthy one
    collapses. None where there is no loop.
    """
    least, most = service_rate_at(reuse, 0.0).per_s, service_rate_at(reuse, 1.0).per_s

    def both(rate: float) -> bool:
        return sum(point.stable for point in fixed_points(reuse, rate)) > 1

    rates = np.linspace(0.5 * min(least, most), 1.05 * max(least, most), points)
    inside = [index for index, rate in enumerate(rates) if both(float(rate))]
    if not inside:
        return None
    first, last = inside[0], inside[-1]
    low = _edge(both, float(rates[first]), float(rates[max(first - 1, 0)]))
    high = _edge(both, float(rates[last]), float(rates[min(last + 1, points - 1)]))
    return low, high


def _edge(holds, inside: float, outside: float) -> float:
    """The last rate from `inside` towards `outside` at which it holds."""
    for _ in range(30):
        middle = (inside + outside) / 2
        if holds(middle):
            inside = middle
        else:
            outside = middle
    return inside

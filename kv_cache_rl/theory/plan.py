"""How many GPUs some traffic needs, and which resource binds first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kv_cache_rl.core.hardware import HardwareProfile
from kv_cache_rl.theory.condition import (
    ServiceRate,
    chunk_within,
    delta,
    gpus_needed,
    positive,
    saturated_tick_s,
    service_rate,
    verdict,
)
from kv_cache_rl.theory.errors import StabilityError
from kv_cache_rl.theory.lengths import Lengths, sampled_lengths
from kv_cache_rl.theory.reuse import Reuse, reuse_of, service_rate_at


@dataclass(frozen=True, slots=True)
class Need:
    """What the traffic needs, with prefix hits or without.

    A service is one model on its profile's GPUs. Rates are per second.
    """

    rate: ServiceRate
    """Of one service."""
    batch_s: float
    gpus: int
    """Fewest, at the target utilisation."""
    peak_gpus: int | None
    """The same for the busiest minute; None where the trace has no arrival times."""
    rho: float | None
    """Utilisation with the GPUs that were given; None where none were."""
    verdict: str | None


@dataclass(frozen=True, slots=True)
class Plan:
    """The traffic, one service, and what is needed without prefix hits and with them."""

    requests: int
    """All that were asked, those that are too long included."""
    too_long: int
    """Requests that no service of this kind can hold; left out, of the rates as of the lengths."""
    offered_rate: float
    """Requests per second in all."""
    arrival_rate: float
    """Of those that fit."""
    peak_rate: float | None
    """Of those that fit."""
    memory_tokens: int
    lengths: Lengths
    delta: float
    history_share: float | None
    """Share of all prompt tokens that an endless prefix cache would spare.

    None where the trace does not say.
    """
    plain: Need
    cached: Need | None
    """As if that share were spared, what decoding wrote included: what an endless cache finds (reuse.py says
    when hits last)."""


def plan(
    prompts: Sequence[int],
    outputs: Sequence[int],
    *,
    arrival_rate: float,
    hardware: HardwareProfile,
    memory_tokens: int,
    histories: Sequence[int] = (),
    peak_rate: float | None = None,
    gpus: int | None = None,
    target_utilisation: float = 0.8,
    token_budget: float = 2048,
    chunk: int = 512,
) -> Plan:
    """GPUs needed for requests of these lengths (columns [R], tokens) at this rate per second.

    Only those that fit into memory are planned for; they arrive at their share of the rate.

    Args:
        arrival_rate: of all these requests, per second.
        peak_rate: in the busiest minute, of those that fit.

    Raises:
        StabilityError: no request fits into `memory_tokens`, or `gpus` are fewer than one service
            takes.
    """
    positive("arrival_rate", arrival_rate)
    if positive("memory_tokens", memory_tokens) and gpus is not None and gpus < hardware.gpus:
        raise StabilityError(
            f"{gpus} GPUs are fewer than the {hardware.gpus} that {hardware.name} takes; give at least those"
        )
    s, o = np.asarray(prompts, dtype=np.int64), np.asarray(outputs, dtype=np.int64)
    fits = s + o <= memory_tokens
    if not fits.any():
        shortest = int((s + o).min()) if s.size else 0
        raise StabilityError(
            f"none of {s.size} requests fits: the shortest has {shortest} tokens, "
            f"the memory holds {memory_tokens}; give larger GPUs or a smaller model"
        )
    offered_rate, arrival_rate = arrival_rate, arrival_rate * float(fits.mean())
    chunk = chunk_within(chunk, token_budget)
    lengths = sampled_lengths(s[fits], o[fits], chunk)
    share = delta(max(lengths.longest, 1), memory_tokens)
    service = Service(hardware, gpus, target_utilisation, arrival_rate, peak_rate, share)
    history = np.asarray(histories, dtype=np.int64)[fits] if len(histories) else None
    batch_s = saturated_tick_s(
        hardware,
        memory_tokens,
        lengths.footprint,
        lengths.prompt,
        token_budget,
        mean_squared_prompt=lengths.squared_prompt,
    )
    plain = service_rate(memory_tokens, batch_s, lengths.footprint, token_budget, lengths.prompt)
    cached = None
    if history is not None:
        reuse = reuse_of(
            s[fits],
            o[fits],
            history,
            hardware=hardware,
            memory_tokens=memory_tokens,
            think_s=1.0,
            chunk=chunk,
            token_budget=token_budget,
        )
        rate = service_rate_at(reuse, 1.0)
        cached = service.need(rate, _batch_s(reuse, rate))
    return Plan(
        requests=int(s.size),
        too_long=int(s.size - fits.sum()),
        offered_rate=offered_rate,
        arrival_rate=arrival_rate,
        peak_rate=peak_rate,
        memory_tokens=memory_tokens,
        lengths=lengths,
        delta=share,
        history_share=None if history is None else float(history.sum()) / max(float(s[fits].sum()), 1.0),
        plain=service.need(plain, batch_s),
        cached=cached,
    )


def _batch_s(reuse: Reuse, rate: ServiceRate) -> float:
    """Seconds of the iteration behind a service rate."""
    return reuse.memory_tokens / (rate.memory_rate * reuse.footprint_found)


@dataclass(frozen=True, slots=True)
class Service:
    """The load, and the GPUs that serve it."""

    hardware: HardwareProfile
    gpus: int | None
    target: float
    arrival_rate: float
    peak_rate: float | None
    delta: float

    def need(self, rate: ServiceRate, batch_s: float) -> Need:
        """GPUs for the mean and for the busiest minute, and whether the given ones suffice."""
        each = self.hardware.gpus
        services = None if self.gpus is None else self.gpus // each
        return Need(
            rate=rate,
            batch_s=batch_s,
            gpus=each * gpus_needed(self.arrival_rate, rate.per_s, self.target),
            peak_gpus=None
            if self.peak_rate is None
            else each * gpus_needed(self.peak_rate, rate.per_s, self.target),
            rho=None if services is None else self.arrival_rate / (services * rate.per_s),
            verdict=None
            if services is None
            else verdict(self.arrival_rate / services, rate.per_s, self.delta),
        )


def as_json(found: Plan) -> dict:
    """The plan as plain values; an infinite rate is None."""

    def need(value: Need | None) -> dict | None:
        if value is None:
            return None
        budget = value.rate.budget_rate
        return {
            "service_rate": value.rate.per_s,
            "binding": value.rate.binding,
            "memory_rate": value.rate.memory_rate,
            "budget_rate": budget if math.isfinite(budget) else None,
            "batch_s": value.batch_s,
            "gpus_needed": value.gpus,
            "gpus_needed_at_peak": value.peak_gpus,
            "rho": value.rho,
            "verdict": value.verdict,
        }

    return {
        "requests": found.requests,
        "too_long": found.too_long,
        "offered_rate": found.offered_rate,
        "arrival_rate": found.arrival_rate,
        "peak_rate": found.peak_rate,
        "memory_tokens": found.memory_tokens,
        "mean_prompt": found.lengths.prompt,
        "mean_output": found.lengths.output,
        "mean_footprint": found.lengths.footprint,
        "longest": found.lengths.longest,
        "delta": found.delta,
        "history_share": found.history_share,
        **(need(found.plain) or {}),
        "with_all_prefixes_found": need(found.cached),
    }

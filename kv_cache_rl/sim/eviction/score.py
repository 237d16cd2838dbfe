"""Rewards and metrics of an episode: pure functions of its final state.

Weights and formulas: semioz/kv-cache-env, as docs/worlds/eviction.md restates them; all sums are kept in
integers until the end."""

import math
from dataclasses import dataclass, field

import numpy as np

from kv_cache_rl.jit import njit, uncounted
from kv_cache_rl.sim.eviction.columns import UNITS_PER_PAGE, Counter, Place, Slot, Static, columns_of
from kv_cache_rl.sim.eviction.entries import eviction_value, units_of
from kv_cache_rl.sim.eviction.spec import Scenario
from kv_cache_rl.sim.eviction.state import State

REWARDS: dict[str, float] = {
    "failure_penalty": 0.40,
    "throughput_reward": 0.25,
    "headroom_bonus": 0.18,
    "memory_efficiency": 0.07,
    "eviction_quality": 0.05,
    "latency_penalty": 0.03,
    "risky_eviction_penalty": 0.02,
}
"""Reward name -> weight, in the order of `reward_terms`."""

_WEIGHTS = np.array(list(REWARDS.values()))
_TERMS = len(REWARDS)

METRICS = (
    "total_tokens_metric",
    "total_failures_metric",
    "total_latency_metric",
    "pressure_steps_metric",
    "regret",
    "wrong_answers_int8",
    "wrong_answers_int4",
    "recomputed_tokens",
    "invalid_calls",
    "calls_per_step",
    "forced_preemptions",
    "text_only_steps",
)


@dataclass(frozen=True, slots=True)
class Report:
    """What an episode came to."""

    scenario_id: str
    rewards: dict[str, float]
    """Unweighted, by name."""
    total: float
    normalized: float
    """NaN, as the metric `regret`, of a scenario that has no references."""
    metrics: dict[str, float]
    timeline: list[dict] = field(repr=False)
    notes: str = ""


@uncounted
def _kept_quality(c):
    """Mean of (1 - eviction value) over the memory in use; 0 if none is."""
    first_anchor = c.constants.slots - c.constants.prefixes
    quality, used = 0, 0
    for i in range(c.constants.slots):
        if c.dyn[Slot.PLACE, i] == Place.GPU:
            units = units_of(c.dyn, i)
            if i >= first_anchor:
                units = c.prefixes[c.static[Static.PREFIX, i]].pages * UNITS_PER_PAGE
            quality += units * (1000 - eviction_value(c, i, c.counters[Counter.WINDOW]))
            used += units
        elif i >= first_anchor and c.prefixes[c.static[Static.PREFIX, i]].refs > 0:
            used += c.prefixes[c.static[Static.PREFIX, i]].pages * UNITS_PER_PAGE
    return quality / (1000.0 * used) if used > 0 else 0.0


@uncounted
def reward_terms(scn, live, terms):
    """Writes the unweighted rewards, in the order of `REWARDS`, into `terms` ``[len(REWARDS)]``."""
    c = columns_of(scn, live)
    counters, budget, peak = c.counters, c.constants.budget_units, c.counters[Counter.PEAK]
    failures = counters[Counter.FAILURES]
    terms[0] = -min((15 * failures + 10 * max(failures - 2, 0)) / 100.0, 1.0)
    terms[1] = min(counters[Counter.TOKENS_DONE] / c.constants.norm, 1.0)
    terms[2] = 0.4 * counters[Counter.HEADROOM] / (10.0 * max(counters[Counter.WINDOW], 1))
    if peak * 20 < budget * 17:
        terms[3] = 0.2
    elif peak * 20 < budget * 19:
        terms[3] = 0.1
    else:
        terms[3] = 0.0 if peak <= budget else -0.2
    terms[4] = _kept_quality(c)
    terms[5] = -min(0.2 * counters[Counter.LATENCY_US] / c.constants.step_us, 0.3)
    terms[6] = -min(counters[Counter.RISKY] / 100.0, 1.0)


@uncounted
def weighted_return(scn, live, terms):
    """`total_return` with room for its terms, ``[len(REWARDS)]``."""
    reward_terms(scn, live, terms)
    total = 0.0
    for k in range(_TERMS):
        total += _WEIGHTS[k] * terms[k]
    return total


@njit
def total_return(scn, live):
    """The weighted sum of the rewards, for the search; the reported total sums the rounded rewards."""
    return weighted_return(scn, live, np.empty(_TERMS))


def scored(state: State, scenario: Scenario) -> tuple[dict, float, float, dict]:
    """Named rewards, their weighted sum, that on the scale of the scenario's references, named metrics."""
    rewards, total, metrics = rewards_and_metrics(state, scenario.best if scenario.referenced else math.nan)
    found = normalized_score(total, scenario.floor, scenario.best) if scenario.referenced else math.nan
    return rewards, total, found, metrics


def normalized_score(total: float, floor: float, best: float) -> float:
    """`total` on the scale floor -> 0, best known -> 1, clipped to [-1, 1.05]; 0 if both are equal."""
    if best - floor < 1e-9:
        return 0.0
    return round(min(max((total - floor) / (best - floor), -1.0), 1.05), 6)


def rewards_and_metrics(state: State, best: float) -> tuple[dict, float, dict]:
    """Named rewards, their weighted sum and named metrics of a finished (or unfinished) episode.

    `best` is NaN where no return is known.
    """
    terms = np.empty(_TERMS)
    reward_terms(*state, terms)
    rewards = {name: round(float(value), 6) + 0.0 for name, value in zip(REWARDS, terms, strict=True)}
    total = round(sum(REWARDS[name] * value for name, value in rewards.items()), 6)
    c, step_us = state.columns.counters.tolist(), int(state.columns.constants.step_us)
    metrics = {
        "total_tokens_metric": float(c[Counter.TOKENS_DONE]),
        "total_failures_metric": float(c[Counter.FAILURES]),
        "total_latency_metric": round(c[Counter.LATENCY_US] / step_us, 6),
        "pressure_steps_metric": float(c[Counter.ABOVE_95]),
        "regret": math.nan if math.isnan(best) else round(best - total, 6),
        "wrong_answers_int8": float(c[Counter.FAILED_INT8]),
        "wrong_answers_int4": float(c[Counter.FAILED_INT4]),
        "recomputed_tokens": float(c[Counter.RECOMPUTED]),
        "invalid_calls": float(c[Counter.INVALID]),
        "calls_per_step": round(c[Counter.CALLS] / max(c[Counter.WINDOW], 1), 6),
        "forced_preemptions": float(c[Counter.PREEMPTED]),
        "text_only_steps": float(c[Counter.TEXT_ONLY]),
    }
    return rewards, total, metrics

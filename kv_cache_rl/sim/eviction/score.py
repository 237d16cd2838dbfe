"""Rewards and metrics of an episode: pure functions of its final state.

Weights and formulas: semioz/kv-cache-env, as restated in the README; all sums are kept in integers until the
end."""

import numpy as np

from kv_cache_rl.jit import njit, uncounted
from kv_cache_rl.sim.eviction.entries import eviction_value, units_of
from kv_cache_rl.sim.eviction.state import (
    ABOVE_95,
    BUDGET,
    CALLS,
    FAILED_INT4,
    FAILED_INT8,
    FAILURES,
    HEADROOM,
    INVALID,
    LATENCY_US,
    NORM,
    ON_GPU,
    P_PAGES,
    P_REFS,
    PEAK,
    PLACE,
    PREEMPTED,
    PREFIX,
    PREFIXES,
    RECOMPUTED,
    RISKY,
    SLOTS,
    STEP_US,
    TEXT_ONLY,
    TOKENS_DONE,
    UNITS_PER_PAGE,
    T,
    columns_of,
    counters_of,
)  # fmt: skip

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


@uncounted
def _kept_quality(scn, state):
    """Sum of (1 - eviction value) over what is left, weighted by its share of the memory in use; 0 if nothing
    is.
    """
    c = columns_of(scn, state)
    first_anchor = scn[SLOTS] - scn[PREFIXES]
    quality, used = 0, 0
    for i in range(scn[SLOTS]):
        if c.dyn[PLACE, i] == ON_GPU:
            units = units_of(c.dyn, i)
            if i >= first_anchor:
                units = c.prefixes[c.static[PREFIX, i], P_PAGES] * UNITS_PER_PAGE
            quality += units * (1000 - eviction_value(c, i, c.counters[T]))
            used += units
        elif i >= first_anchor and c.prefixes[c.static[PREFIX, i], P_REFS] > 0:
            used += c.prefixes[c.static[PREFIX, i], P_PAGES] * UNITS_PER_PAGE
    return quality / (1000.0 * used) if used > 0 else 0.0


@uncounted
def reward_terms(scn, state, terms):
    """Writes the seven unweighted rewards, in the order of `REWARDS`, into `terms` [7]."""
    c = counters_of(scn, state)
    failures = c[FAILURES]
    terms[0] = -min((15 * failures + 10 * max(failures - 2, 0)) / 100.0, 1.0)
    terms[1] = min(c[TOKENS_DONE] / scn[NORM], 1.0)
    terms[2] = 0.4 * c[HEADROOM] / (10.0 * max(c[T], 1))
    peak, budget = c[PEAK], scn[BUDGET]
    if peak * 20 < budget * 17:
        terms[3] = 0.2
    elif peak * 20 < budget * 19:
        terms[3] = 0.1
    else:
        terms[3] = 0.0 if peak <= budget else -0.2
    terms[4] = _kept_quality(scn, state)
    terms[5] = -min(0.2 * c[LATENCY_US] / scn[STEP_US], 0.3)
    terms[6] = -min(c[RISKY] / 100.0, 1.0)


@njit
def total_return(scn, state):
    """The weighted sum of the rewards, for the search; the reported total sums the rewards as they are
    reported.
    """
    terms = np.empty(7)
    reward_terms(scn, state, terms)
    total = 0.0
    for k in range(7):
        total += _WEIGHTS[k] * terms[k]
    return total


def normalized_score(total: float, floor: float, best: float) -> float:
    """`total` on the scale floor -> 0, best known -> 1, clipped to [-1, 1.05]; 0 where the two coincide."""
    if best - floor < 1e-9:
        return 0.0
    return round(min(max((total - floor) / (best - floor), -1.0), 1.05), 6)


def rewards_and_metrics(scn: np.ndarray, state: np.ndarray, best: float) -> tuple[dict, float, dict]:
    """Named rewards, their weighted sum and named metrics of a finished (or unfinished) episode."""
    terms = np.empty(7)
    reward_terms(scn, state, terms)
    rewards = {name: round(float(value), 6) + 0.0 for name, value in zip(REWARDS, terms, strict=True)}
    total = round(sum(REWARDS[name] * value for name, value in rewards.items()), 6)
    c = counters_of(scn, state)
    metrics = {
        "total_tokens_metric": float(c[TOKENS_DONE]),
        "total_failures_metric": float(c[FAILURES]),
        "total_latency_metric": round(float(c[LATENCY_US] / scn[STEP_US]), 6),
        "pressure_steps_metric": float(c[ABOVE_95]),
        "regret": round(best - total, 6),
        "wrong_answers_int8": float(c[FAILED_INT8]),
        "wrong_answers_int4": float(c[FAILED_INT4]),
        "recomputed_tokens": float(c[RECOMPUTED]),
        "invalid_calls": float(c[INVALID]),
        "calls_per_step": round(float(c[CALLS] / max(c[T], 1)), 6),
        "forced_preemptions": float(c[PREEMPTED]),
        "text_only_steps": float(c[TEXT_ONLY]),
    }
    return rewards, total, metrics

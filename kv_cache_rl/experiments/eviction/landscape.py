"""The landscape: what every decider and the oracle earn on unselected scenarios."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.core.hardware import prefill_microseconds
from kv_cache_rl.core.numbers import whole_number
from kv_cache_rl.search.eviction.exhaustive import optimum, small_scenario
from kv_cache_rl.search.eviction.oracle import ALL_VERBS, DEFAULT_WIDTH, beam, solve
from kv_cache_rl.search.eviction.rollout import finish
from kv_cache_rl.sim.eviction.actions import Verb
from kv_cache_rl.sim.eviction.deciders import DECIDERS, FLOOR, policy_id
from kv_cache_rl.sim.eviction.dynamics import new_state
from kv_cache_rl.sim.eviction.episode import replay
from kv_cache_rl.sim.eviction.generate import generate
from kv_cache_rl.sim.eviction.score import rewards_and_metrics
from kv_cache_rl.sim.eviction.spec import DIFFICULTIES, ORACLE, PAGE_TOKENS, Scenario, ScenarioError

ABLATIONS = {"evict": Verb.EVICT, "compress": Verb.COMPRESS, "swap_to_cpu": Verb.SWAP}
ABLATED_TIER = "hard"


def run(
    per_tier: int,
    seed: int = 4_000_037,
    width: int = DEFAULT_WIDTH,
    workers: int = 2,
    small: int = 12,
    progress: Callable[[str, int], None] = lambda what, done: None,
) -> dict:
    """Plays `per_tier` fresh, unselected scenarios of every tier with every decider and the oracle.

    Returns:
        ``tiers``: tier -> columns, one value per scenario: ``return``, ``failures``, ``tokens`` by
        decider ("oracle" too), ``floor``, ``without`` (returns of oracles that lack one verb) and
        ``physics``. ``small``: beam and exact optimum.
    """  # fmt: skip
    for what, value, low in (("per_tier", per_tier, 1), ("small", small, 0), ("workers", workers, 1)):
        whole_number(what, value, low, error=ScenarioError)
    tiers = {}
    with ThreadPoolExecutor(workers) as pool:
        for tier in DIFFICULTIES:
            jobs = [
                pool.submit(_measure, generate(tier, seed, "train", k), width, tier == ABLATED_TIER)
                for k in range(per_tier)
            ]
            rows = []
            for done, job in enumerate(jobs, 1):
                rows.append(job.result())
                progress(tier, done)
            tiers[tier] = _columns(rows)
        instances = list(pool.map(_small, range(small)))
    return {"per_tier": per_tier, "seed": seed, "width": width, "tiers": tiers, "small": instances}


def _measure(scenario: Scenario, width: int, ablate: bool) -> dict:
    row: dict = {"return": {}, "failures": {}, "tokens": {}, "without": {}, "physics": physics(scenario)}
    for name in DECIDERS:
        state = new_state(scenario)
        finish(state, policy_id(name))
        _note(row, name, *rewards_and_metrics(state, 0.0)[1:])
    log, _ = solve(scenario, width)
    report = replay(scenario, log)
    _note(row, ORACLE, report.total, report.metrics)
    row["floor"] = max(row["return"][name] for name in FLOOR)
    if ablate:
        for name, verb in ABLATIONS.items():
            row["without"][name] = solve(scenario, width, ALL_VERBS & ~(1 << verb))[1]
    return row


def _note(row: dict, name: str, total: float, metrics: dict) -> None:
    row["return"][name] = total
    row["failures"][name] = metrics["total_failures_metric"]
    row["tokens"][name] = metrics["total_tokens_metric"]


def _columns(rows: list[dict]) -> dict:
    """Rows of dictionaries -> dictionaries of columns."""
    first = rows[0]
    return {
        key: {name: [row[key][name] for row in rows] for name in value}
        if isinstance(value, dict)
        else [r[key] for r in rows]
        for key, value in first.items()
    }


def _small(seed: int) -> dict:
    scenario = small_scenario(seed)
    return {"optimum": optimum(scenario)[1], "beam": replay(scenario, beam(scenario)).total}


def physics(scenario: Scenario) -> dict[str, float]:
    """Medians over a scenario's sessions, in windows, and the share of live sessions that return in it."""
    live = [s for s in scenario.sessions if s.place != "none" and s.kind != "ephemeral"]
    gaps = [
        later.arrive - earlier.arrive - earlier.out / s.rate
        for s in scenario.sessions
        for earlier, later in zip(s.turns, s.turns[1:], strict=False)
    ]
    pages = np.median([blocks_for(s.tokens, PAGE_TOKENS) for s in live])
    tokens = int(np.median([s.tokens for s in live]))
    cold_us = prefill_microseconds(tokens, 0, scenario.prefill_c1_ns, scenario.prefill_c2_ps)
    return {
        "return_gap": round(float(np.median(gaps)), 6) if gaps else float("nan"),
        "swap_in": round(float(pages * scenario.link_ns_per_page / 1e3 / scenario.step_us), 6),
        "cold_prefill": round(cold_us / scenario.step_us, 6),
        "return_share": round(sum(any(t.arrive >= 0 for t in s.turns) for s in live) / len(live), 6),
        "resident": float(sum(s.place == "gpu" for s in scenario.sessions)),
        "sessions": float(len(scenario.sessions)),
    }

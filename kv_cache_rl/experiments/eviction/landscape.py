"""The landscape: what every decider and the oracle earn on unselected scenarios."""

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.core.hardware import prefill_microseconds
from kv_cache_rl.core.numbers import whole_number
from kv_cache_rl.experiments.eviction.sets import scenarios_from_trace
from kv_cache_rl.experiments.eviction.tuning import tune
from kv_cache_rl.files import NotJson, read_json
from kv_cache_rl.search.eviction.exhaustive import optimum, small_scenario
from kv_cache_rl.search.eviction.oracle import DEFAULT_WIDTH, beam, solve
from kv_cache_rl.search.eviction.proposals import new_log
from kv_cache_rl.search.eviction.rollout import finish, floor_of, play_tuned
from kv_cache_rl.sim.eviction.actions import ALL_VERBS, Verb
from kv_cache_rl.sim.eviction.dealing import DEALT, FIRST_ONLY, LACKING
from kv_cache_rl.sim.eviction.deciders import DECIDERS, policy_id
from kv_cache_rl.sim.eviction.dynamics import new_state
from kv_cache_rl.sim.eviction.episode import replay
from kv_cache_rl.sim.eviction.generate import generate
from kv_cache_rl.sim.eviction.scenarios import load_scenarios
from kv_cache_rl.sim.eviction.score import rewards_and_metrics
from kv_cache_rl.sim.eviction.spec import (
    DIFFICULTIES,
    OFFLOADED,
    ORACLE,
    PAGE_TOKENS,
    Scenario,
    ScenarioError,
)
from kv_cache_rl.sim.eviction.trained import TUNED

ABLATIONS = {"evict": Verb.EVICT, "compress": Verb.COMPRESS, "swap_to_cpu": Verb.SWAP}
ABLATED_TIER = "hard"
WITHOUT = {f"{LACKING}{name}": ALL_VERBS & ~(1 << verb) for name, verb in ABLATIONS.items()}
"""What `tuned` is compared with, retuned: the same without one tool."""
DEALS = (1, 2, 3)
"""Seeds of the deals that are averaged."""


def run(
    per_tier: int,
    seed: int = 4_000_037,
    width: int = DEFAULT_WIDTH,
    workers: int = 2,
    small: int = 12,
    generations: int = 25,
    learn: int = 600,
    weights: Mapping[str, np.ndarray] | None = None,
    trace: str | Path | None = None,
    progress: Callable[[str, int], None] = lambda what, done: None,
) -> dict:
    """Plays unselected scenarios of every tier with every decider and the oracle.

    Args:
        per_tier: how many fresh ones, or how many windows of a trace, of which a short one has fewer.
        generations, learn: for how long `tuned` is tuned again without each tool, and on how many
            scenarios of the committed training set.
        weights: what that gave in another run, ``read_retuned``; None: it is done.
        trace: a trace file, of which windows are played in place of fresh scenarios.

    Returns:
        ``tiers``: tier -> columns, one value per scenario: ``return``, ``failures``, ``tokens`` by
        decider ("oracle" too), ``floor``, ``without`` (returns of oracles that lack one verb), ``choices``
        (returns of `tuned` as it is, without a tool, dealt, in the first window only) and ``physics``.
        ``small``: beam and exact optimum. ``retuned``: constants by what `tuned` lacks. With a trace
        ``trace``, its name, and ``tried``, the windows of each tier that were, in place of ``small``.

    Raises:
        ScenarioError: a number out of range, or a trace of which no window can be pressed.
    """  # fmt: skip
    for what, value, low in (("per_tier", per_tier, 1), ("small", small, 0), ("workers", workers, 1)):
        whole_number(what, value, low, error=ScenarioError)
    more: dict = {}
    if trace is None:
        played: dict = {
            tier: [generate(tier, seed, "train", k) for k in range(per_tier)] for tier in DIFFICULTIES
        }
    else:
        cut = {tier: scenarios_from_trace(trace, tier, per_tier, seed) for tier in DIFFICULTIES}
        played = {tier: found.scenarios for tier, found in cut.items()}
        more = {"trace": Path(trace).name, "tried": {tier: found.tried for tier, found in cut.items()}}
    weights = weights or retuned(learn, generations)
    tiers: dict[str, dict] = {}
    with ThreadPoolExecutor(workers) as pool:
        for tier, chosen in played.items():
            ablate = tier == ABLATED_TIER and trace is None
            jobs = [pool.submit(_measure, scenario, width, ablate, weights) for scenario in chosen]
            rows = []
            for done, job in enumerate(jobs, 1):
                rows.append(job.result())
                progress(tier, done)
            tiers[tier] = _columns(rows)
        if trace is None:
            more = {"small": list(pool.map(_small, range(small)))}
    again = {name: constants.tolist() for name, constants in weights.items()}
    about = {"per_tier": per_tier, "seed": seed, "width": width, "of_tuned": own_digest(), "retuned": again}
    return {**about, "tiers": tiers, **more}


def own_digest() -> str:
    """A digest of the constants of `tuned`, by which others are known to have been tuned from them."""
    return hashlib.sha256(TUNED.weights.tobytes()).hexdigest()[:16]


def read_retuned(path: Path) -> dict[str, np.ndarray]:
    """What `tuned` without each tool and for one window is in the raw numbers of another run.

    Raises:
        ScenarioError: the file cannot be read, is none of these, or of other constants of `tuned`.
    """
    try:
        found = read_json(path)
        if found["of_tuned"] != own_digest():
            raise ScenarioError(
                f"{path}: is of other constants of tuned than this release has; leave it out, and they are "
                "tuned again"
            )
        return {name: np.array(found["retuned"][name], np.float64) for name in (*WITHOUT, FIRST_ONLY)}
    except (OSError, NotJson, KeyError, TypeError) as error:
        raise ScenarioError(
            f"{path}: holds no raw numbers of `kv-cache-rl landscape --out` ({error}); leave it out"
        ) from None


def retuned(learn: int, generations: int) -> dict[str, np.ndarray]:
    """Constants of the weighing without each tool and for one window, tuned from the committed ones."""
    scenarios = load_scenarios(split="train", num_examples=learn)
    tuned = {
        name: tune(scenarios, generations, allowed=allowed, start=TUNED.weights)[0]
        for name, allowed in WITHOUT.items()
    }
    first = tune(scenarios, generations, start=TUNED.weights, first_only=True)[0]
    return {**tuned, FIRST_ONLY: first}


def _choices(scenario: Scenario, weights: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns of `tuned` and of what it is compared with."""
    start = new_state(scenario)

    def play(constants: np.ndarray, allowed: int = ALL_VERBS, first: bool = False, deal: int = 0) -> float:
        return play_tuned(*start.copy(), constants, allowed, first, deal, *new_log(scenario.steps))

    own = TUNED.weights
    dealt = [play(own, deal=deal) for deal in DEALS]
    found = {"tuned": play(own), DEALT: sum(dealt) / len(dealt)}
    found[FIRST_ONLY] = play(weights[FIRST_ONLY], first=True)
    found |= {name: play(weights[name], allowed) for name, allowed in WITHOUT.items()}
    return {name: round(value, 6) for name, value in found.items()}


def _measure(scenario: Scenario, width: int, ablate: bool, weights: Mapping[str, np.ndarray]) -> dict:
    row: dict = {"return": {}, "failures": {}, "tokens": {}, "without": {}, "physics": physics(scenario)}
    for name in DECIDERS:
        state = new_state(scenario)
        finish(state, policy_id(name))
        _note(row, name, *rewards_and_metrics(state, 0.0)[1:])
    log, _ = solve(scenario, width)
    report = replay(scenario, log)
    _note(row, ORACLE, report.total, report.metrics)
    row["floor"] = floor_of(scenario)[0]
    row["choices"] = _choices(scenario, weights)
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
    link_us = float(pages * scenario.link_ns_per_page / 1e3)  # at 16 bits
    return {
        "return_gap": round(float(np.median(gaps)), 6) if gaps else float("nan"),
        "swap_in": round(link_us / (1 << OFFLOADED) / scenario.step_us, 6),
        "cold_prefill": round(cold_us / scenario.step_us, 6),
        "return_share": round(sum(any(t.arrive >= 0 for t in s.turns) for s in live) / len(live), 6),
        "resident": float(sum(s.place == "gpu" for s in scenario.sessions)),
        "sessions": float(len(scenario.sessions)),
    }

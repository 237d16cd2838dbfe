"""Seeded scenarios of the three tiers: the same arguments give the same bytes on every machine.

Nothing here reads a clock or a global generator, and nothing depends on what a policy will do.
"""

from dataclasses import dataclass

import numpy as np

from kv_cache_rl import ENVIRONMENT_VERSION
from kv_cache_rl.core.geometry import MODELS
from kv_cache_rl.core.hardware import HARDWARE, kv_capacity_tokens
from kv_cache_rl.core.numbers import whole_number
from kv_cache_rl.sim.eviction import process as p
from kv_cache_rl.sim.eviction.build import HARDWARE_NAME, MEMORY_SHARE, MODEL_NAME, WINDOW_S, build
from kv_cache_rl.sim.eviction.spec import (
    DIFFICULTIES,
    PAGE_TOKENS,
    SPLITS,
    STEPS,
    Prefix,
    Scenario,
    ScenarioError,
    one_of,
)


@dataclass(frozen=True, slots=True)
class Tier:
    """What a difficulty means. Shares are of the budget unless they say otherwise."""

    budget: tuple[float, float]
    """Share of the GPU's cache that the tier grants."""
    demand: float
    """Tokens of live contexts over the budget, at 16 bits."""
    arrivals: float
    """New sessions per window, mean."""
    bursts: int
    """Windows at which several of them come at once."""
    sub_agents: float
    """Share of sub-agents among the sessions."""
    leftover: float
    """Contexts of agents that are gone but still cached at the start."""
    cpu_slack: float
    """Room left in the CPU pool at the start."""


TIERS = {
    "easy": Tier((0.90, 1.00), 5.2, 0.10, 0, 0.05, 0.10, 0.15),
    "medium": Tier((0.75, 0.90), 6.2, 0.10, 1, 0.05, 0.60, 0.05),
    "hard": Tier((0.65, 0.80), 7.2, 0.10, 2, 0.05, 0.90, 0.02),
}

MAIN_PREFIXES = 2
"""Prefixes of main agents; sub-agents share one more. Two teams on one tool set each: a
single-organisation setting, as random users of the traces share almost nothing."""


def generate(difficulty: str, seed: int, split: str = "train", index: int = 0) -> Scenario:
    """One unselected scenario of a tier, without floor and best return.

    Raises:
        ScenarioError: an unknown tier or split, or a negative number.
    """
    one_of("difficulty", difficulty, DIFFICULTIES)
    one_of("split", split, SPLITS)
    for what, value in (("seed", seed), ("index", index)):
        whole_number(what, value, error=ScenarioError)
    if min(seed, index) < 0:
        raise ScenarioError(f"seed is {seed} and index {index}; give numbers from 0 on")
    tier = TIERS[difficulty]
    rng = np.random.default_rng([seed, SPLITS.index(split), DIFFICULTIES.index(difficulty), index])
    gpu_pages = kv_capacity_tokens(HARDWARE[HARDWARE_NAME], MODELS[MODEL_NAME], MEMORY_SHARE) // PAGE_TOKENS
    budget_pages = round(gpu_pages * rng.uniform(*tier.budget))
    prefixes = tuple(
        Prefix(f"p{k}", f"sys{k}", p.draw_tokens(rng, p.PREFIX_TOKENS, 8_000, 22_000))
        for k in range(MAIN_PREFIXES + 1)
    )
    cap = budget_pages * PAGE_TOKENS // 4
    drafts = [
        *_live(rng, tier, prefixes, budget_pages * PAGE_TOKENS, cap),
        *_gone(rng, tier.leftover * budget_pages * PAGE_TOKENS, cap),
        *arriving(rng, tier, prefixes, cap),
    ]
    return build(
        drafts, prefixes, name=f"eviction-{split}-{difficulty}-{index:04d}-v{ENVIRONMENT_VERSION}",
        difficulty=difficulty, split=split, seed=seed, source="generated", gpu_pages=gpu_pages,
        budget_pages=budget_pages, cpu_slack=tier.cpu_slack,
    )  # fmt: skip


def which_prefix(rng, sub: bool) -> int:
    return MAIN_PREFIXES if sub else int(rng.random() < 0.35)


def _own(rng, mixture, prefix: Prefix, cap: int) -> int:
    return max(p.draw_tokens(rng, mixture, 9_000, cap) - prefix.tokens, 500)


def _live(rng, tier: Tier, prefixes, budget_tokens: int, cap: int) -> list[p.Draft]:
    """Sessions live when the window begins, until their contexts make up the tier's demand."""
    drafts, total = [], 0
    while total < tier.demand * budget_tokens:
        sub = bool(rng.random() < tier.sub_agents)
        k = which_prefix(rng, sub)
        mixture = p.CONTEXT_SUB if sub else p.CONTEXT_MAIN
        draft = p.run_session(
            rng,
            sub,
            -rng.uniform(0, 400),
            WINDOW_S,
            k,
            lambda k=k, mixture=mixture: _own(rng, mixture, prefixes[k], cap),
        )
        if draft is not None and draft.stopped != "gone":
            total += draft.context + prefixes[k].tokens
            drafts.append(draft)
    return drafts


def _gone(rng, tokens: float, cap: int) -> list[p.Draft]:
    """Contexts of finished sub-agents that are still cached."""
    drafts = []
    while tokens > 0:
        own = p.draw_tokens(rng, p.CONTEXT_SUB, 9_000, cap)
        tokens -= own
        drafts.append(
            p.Draft(MAIN_PREFIXES, "code", 1.0, 500, 38.0, own, -rng.uniform(1, 60), 8, "gone", (), True)
        )
    return drafts


def arriving(rng, tier: Tier, prefixes, cap: int) -> list[p.Draft]:
    """Sessions that begin inside the window, three fifths of them in bursts if the tier has any."""
    bursts = rng.uniform(4, WINDOW_S - 8, tier.bursts)
    drafts = []
    for _ in range(int(rng.poisson(tier.arrivals * STEPS))):
        burst = tier.bursts > 0 and rng.random() < 0.6
        at = float(rng.choice(bursts)) if burst else rng.uniform(0, WINDOW_S)
        sub = bool(rng.random() < tier.sub_agents)
        k = which_prefix(rng, sub)
        own = _own(rng, p.FIRST_INPUT_SUB if sub else p.FIRST_INPUT, prefixes[k], cap)
        draft = p.run_session(rng, sub, at, WINDOW_S, k, lambda own=own: own)
        if draft is not None:
            drafts.append(draft)
    return drafts

"""Scenarios from windows cut out of a real trace file: real demand, and a server scaled to it.

A trace says when calls come and how long they are, not on which server they met, how fast it
decoded or what the work was. So the contexts live in a window are given the tier's demand by
scaling the GPU's cache to them, or a multiple of it where that is too little to matter (`PRESSURES`).
Link, prefill and decode stay those of the generated scenarios, and work class, tolerance and priority are
drawn as there."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kv_cache_rl import ENVIRONMENT_VERSION
from kv_cache_rl.core.numbers import whole_number
from kv_cache_rl.sim.eviction import process as p
from kv_cache_rl.sim.eviction.build import ROOM, WINDOW_S, build
from kv_cache_rl.sim.eviction.generate import TIERS
from kv_cache_rl.sim.eviction.spec import DIFFICULTIES, PAGE_TOKENS, Prefix, Scenario, ScenarioError
from kv_cache_rl.traces import Window, WindowSession, cut_windows, detect

LIVE = {"easy": 24.0, "medium": 28.0, "hard": 34.0}
"""Sequences live at a time, as many as the generated tiers have."""
SPEEDUP = {"claude-code": 1.0}
"""How much faster than recorded a format is played. In other formats users come back after
minutes, so those are played eight times as fast."""
MAX_PREFIXES = 8
LEAST_BUDGET = -(-4 * 2 * ROOM // PAGE_TOKENS)
"""Pages below which a window is too small for this world: contexts would be cut to less than a call adds."""
NONE_FITS = (
    f"no window has four calls, and contexts for a budget of {LEAST_BUDGET * PAGE_TOKENS:,} tokens; use a "
    "trace with more sessions at a time, or longer ones"
)
PRESSURES = (1.0, 1.25, 1.6, 2.0, 2.5)
"""Multiples of the tier's demand at which a window may be played. The set takes the first at which the
best log known beats the floor by the gap that it asks of every scenario: a rule that reads demand, floor
and oracle, and no decider."""


def windows_of(path: str | Path, difficulty: str, seed: int) -> Iterator[tuple[Scenario, ...]]:
    """Each window of a trace file as unselected scenarios of one tier, one per pressure of `PRESSURES`,
    without floor and best return.

    Raises:
        TraceError: the file cannot be read; it names file, line, field and remedy.
        ScenarioError: the seed is no whole number from 0 on.
    """
    whole_number("seed", seed, 0, error=ScenarioError)
    cut = cut_windows(
        path,
        seed=seed,
        window_s=WINDOW_S,
        live=LIVE[difficulty],
        live_s=p.LIVE_S,
        speedup=SPEEDUP.get(detect(path), 8.0),
    )
    for k, window in enumerate(cut):
        made = (_scenario(window, difficulty, seed, k, pressure) for pressure in PRESSURES)
        # Some windows are too empty to cause pressure, or too small: skipped, by a rule that reads no policy.
        if playable := tuple(scenario for scenario in made if scenario is not None):
            yield playable


def _scenario(window: Window, difficulty: str, seed: int, index: int, pressure: float) -> Scenario | None:
    rng = np.random.default_rng([seed, DIFFICULTIES.index(difficulty), index])
    tier = TIERS[difficulty]
    shared = Counter(s.prefix_key for s in window.sessions if s.prefix_key and s.prefix_tokens > 0)
    keys = [key for key, count in shared.most_common(MAX_PREFIXES) if count > 1]
    tokens = {s.prefix_key: s.prefix_tokens for s in window.sessions}
    prefixes = tuple(Prefix(f"p{k}", f"sys{k}", tokens[key]) for k, key in enumerate(keys))
    drafts = [_draft(rng, s, keys) for s in window.sessions if s.context_tokens_at_start > 0 or s.turns]
    live = sum(d.context for d in drafts if d.calls or d.running)
    budget_share = rng.uniform(*tier.budget)
    budget_pages = int(live / (tier.demand * pressure) / PAGE_TOKENS)
    if budget_pages < LEAST_BUDGET or sum(len(d.turns) for d in drafts) < 4:
        return None
    return build(
        drafts, prefixes,
        name=f"eviction-{_stem(window.source)}-{difficulty}-{index:04d}-v{ENVIRONMENT_VERSION}",
        difficulty=difficulty, split="eval", seed=seed, source=_plain(window.source),
        gpu_pages=round(budget_pages / budget_share), budget_pages=budget_pages, cpu_slack=tier.cpu_slack,
    )  # fmt: skip


def _stem(source: str) -> str:
    """The trace's file name as part of an id."""
    return _plain(source.split(".")[0]).replace(".", "_")[:40]


def _plain(name: str) -> str:
    """A file's name in the letters that ids and sources may have."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)[:80]


def _draft(rng: np.random.Generator, s: WindowSession, keys: list[str]) -> p.Draft:
    prefix = keys.index(s.prefix_key) if s.prefix_key in keys else -1
    off = s.prefix_tokens if prefix >= 0 else 0
    context = max(s.context_tokens_at_start - off, 1) if s.context_tokens_at_start else 0
    turns = []
    thinks = s.running_thinking or any(t.thinking for t in s.turns)
    if s.running_output_tokens:
        thought = s.running_output_tokens // 2 if s.running_thinking else 0
        turns.append(p.DraftTurn(-0.001, 0, s.running_output_tokens, thought, s.last_stop == "end_turn"))
    for t in s.turns:
        first = not turns and not context
        kept, new = (-1, max(t.new_tokens - off, 1)) if first else (max(t.kept_tokens - off, 0), t.new_tokens)
        thought = t.output_tokens // 2 if t.thinking else 0
        turns.append(
            p.DraftTurn(t.arrive_s, new, max(t.output_tokens, 1), thought, t.stop == "end_turn", kept)
        )
    if context and turns and turns[0].kept >= 0:
        context = max(min(context, turns[0].kept), 1)
    work = "reasoning" if thinks else str(rng.choice(["chat", "extraction", "code"], p=[0.25, 0.19, 0.56]))
    priority = int(np.clip(round(rng.normal(500, 220)), 0, 1000))
    over = s.is_sub_agent and not s.more_turns_after
    calls = 0 if s.last_seen_s is None else 1
    stopped = "gone" if over and not turns else "end" if s.last_stop == "end_turn" else "tool"
    return p.Draft(
        prefix, work, float(rng.random()), priority, p.draw(rng, p.TOKENS_PER_SECOND),
        context, s.last_seen_s or 0.0, calls, stopped, tuple(turns), over,
    )  # fmt: skip

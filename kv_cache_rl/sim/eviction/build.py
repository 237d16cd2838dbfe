"""From drafts of sessions to a scenario: places in memory, windows instead of seconds, integers only."""

import math
from collections.abc import Sequence
from dataclasses import replace

from kv_cache_rl import ENVIRONMENT_VERSION
from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.core.calibration import CalibrationError
from kv_cache_rl.core.calibrations import LITERATURE, calibration_named
from kv_cache_rl.core.geometry import MODELS, bytes_per_token
from kv_cache_rl.core.hardware import HARDWARE, LINKS
from kv_cache_rl.core.precision import LADDER, tolerated_level
from kv_cache_rl.sim.eviction.columns import UNITS_PER_PAGE
from kv_cache_rl.sim.eviction.process import Draft
from kv_cache_rl.sim.eviction.spec import (
    OFFLOADED,
    PAGE_TOKENS,
    STEPS,
    Prefix,
    Scenario,
    ScenarioError,
    Session,
    Turn,
)

STEP_MS = 2000
STEP_S = STEP_MS / 1000
WINDOW_S = STEPS * STEP_S
NORM = 500 * STEP_MS // 100
"""Completed tokens that earn the full throughput reward: 500 per 100 ms of one window."""
HARDWARE_NAME, MODEL_NAME = "8xh100-llama-3.1-70b", "llama-3.1-70b"
HOST_LINK = "pcie4"
"""One link to the host's memory, which the GPUs share. A choice: with one for each of the eight, moving
contexts cost nothing, and any rule that kept memory free did as well as one that chose."""
MEMORY_SHARE = 0.8
"""Of the GPU's memory for weights and cache; the rest is for activations of long prefills and for graphs."""
ROOM = 2_100
"""Tokens of a sequence's share of the budget, a quarter, that its context leaves for its first call."""
FILLED = 0.95
"""Share of the budget in use when the episode begins."""


def turns_of(draft: Draft, own: int, running: bool, cap: int) -> tuple[Turn, ...]:
    """The draft's calls in windows.

    What a call leaves is what the next one builds on; the rest of it is dead.
    """
    turns, context = [], own
    for k, call in enumerate(draft.turns):
        follows = draft.turns[k + 1] if k + 1 < len(draft.turns) else None
        if call.kept >= 0 and turns:
            context = min(context, call.kept)
        new = min(call.new if call.new >= 0 else max(own, 500), max(cap - context - call.out, 0))
        total = context + new + call.out
        dead, after = ("reasoning", total - call.thought) if call.thought else ("", total)
        leaves = "context" if call.ends else "tool_result"
        if follows is None and draft.over:
            dead, after, leaves = "", total, "ephemeral"
        arrive = math.floor(call.at_s / STEP_S)
        if arrive < 0 and not running:
            arrive = 0
        turns.append(Turn(arrive, context, new, call.out, after, dead, leaves))
        context = after
    return tuple(turns)


def _started(draft: Draft) -> int:
    """Tokens that the call in progress has generated already; at least one is left to do."""
    call = draft.turns[0]
    return max(min(int(-call.at_s * draft.rate_s), call.out - 1), 0)


def _kind(draft: Draft, running: bool) -> str:
    if running:
        return "generation"
    if draft.stopped == "gone":
        return "ephemeral"
    return "context" if draft.stopped == "end" or draft.calls == 0 else "tool_result"


def build(
    drafts: Sequence[Draft], prefixes: tuple[Prefix, ...], *, name: str, difficulty: str, split: str,
    seed: int, source: str, gpu_pages: int, budget_pages: int, cpu_slack: float,
) -> Scenario:  # fmt: skip
    """Places sessions by recency, running ones first: on the GPU until it is full, then on the CPU.

    Args:
        cpu_slack: free room of the CPU pool beyond what it holds at the start, as a share of the
            budget.
    """
    profile, model = HARDWARE[HARDWARE_NAME], MODELS[MODEL_NAME]
    link = LINKS[HOST_LINK]
    cap = budget_pages * PAGE_TOKENS // 4
    gpu_left = budget_pages * FILLED - sum(blocks_for(p.tokens, PAGE_TOKENS) for p in prefixes)
    cpu_used, sessions = 0, []
    for draft in sorted(drafts, key=lambda d: -d.last_s):
        rate, begins_here = max(round(draft.rate_s * STEP_S), 8), draft.calls == 0 and not draft.running
        own = min(draft.context, cap - ROOM)
        tokens = 0 if begins_here else own
        running = draft.running
        if running:
            first = draft.turns[0]
            tokens = own + min(first.new, max(cap - own - first.out, 0)) + _started(draft)
        pages = blocks_for(tokens, PAGE_TOKENS)
        place = "none"
        if tokens and pages <= gpu_left:
            place, gpu_left = "gpu", gpu_left - pages
        elif tokens and draft.stopped == "gone":
            continue
        elif tokens:
            place, tokens, running = "cpu", own, False
            cpu_used += blocks_for(own, PAGE_TOKENS) * (UNITS_PER_PAGE >> OFFLOADED)
        turns = turns_of(draft, own, running, cap)
        if place == "none" and not turns:
            continue
        last = 0 if running or begins_here else math.floor(draft.last_s / STEP_S)
        sessions.append(
            Session(
                f"s{len(sessions)}", _kind(draft, running), draft.work_class,
                LADDER[tolerated_level(draft.work_class, draft.tolerance)], draft.priority, rate,
                draft.prefix, place, tokens, last, draft.calls, turns,
            )
        )  # fmt: skip
    page_bytes = bytes_per_token(model) * PAGE_TOKENS
    return Scenario(
        id=name, version=ENVIRONMENT_VERSION, difficulty=difficulty, split=split, seed=seed, source=source,
        hardware=profile.name, model=model.name, steps=STEPS, step_ms=STEP_MS,
        gpu_pages=gpu_pages, budget_pages=budget_pages,
        cpu_pages=cpu_used // UNITS_PER_PAGE + round(budget_pages * cpu_slack),
        link_ns_per_page=round(page_bytes / link.one_way * 1e9),
        link_fixed_us=round(link.latency_s * 1e6),
        prefill_c1_ns=round(profile.prefill_c1_s * 1e9), prefill_c2_ps=round(profile.prefill_c2_s * 1e12),
        norm=NORM, prefixes=prefixes, sessions=tuple(sessions),
    )  # fmt: skip


def recalibrated(scenario: Scenario, calibration: str) -> Scenario:
    """The scenario with the seconds of a calibration: of the link to the host, and of computing the
    calibrated model's cache.

    Under the literature's it is what it was. Bytes are the rules' (an int8 page is half a page) and
    task losses the literature's; reference returns hold for the seconds they were found under, and
    are dropped.

    Raises:
        ScenarioError: no such calibration, or one that has measured no link, hardware and model.
    """
    try:
        found = calibration_named(calibration)
    except CalibrationError as unknown:
        raise ScenarioError(str(unknown)) from None
    if found is LITERATURE:
        return scenario
    if found.link is None or found.hardware is None or found.model is None:
        raise ScenarioError(
            f"calibration {calibration!r} has no link, hardware or model; use one that paged calibrate made"
        )
    page_s = bytes_per_token(found.model) * PAGE_TOKENS / found.link.one_way
    return replace(
        scenario, id=f"{scenario.id}-{calibration}", hardware=found.hardware.name, model=found.model.name,
        link_ns_per_page=max(round(page_s * 1e9), 1), link_fixed_us=round(found.link.latency_s * 1e6),
        prefill_c1_ns=max(round(found.hardware.prefill_c1_s * 1e9), 1),
        prefill_c2_ps=round(found.hardware.prefill_c2_s * 1e12),
        floor=0.0, floor_by="", best=0.0, best_log=(),
    )  # fmt: skip

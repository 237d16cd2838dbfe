"""Seeded scenarios fitted to real Claude Code sessions.

Every session is an alternating process (a call runs, the agent is away) started up to two minutes before the window and
seen through it, so that ages, phases and returns come out as they would in a live service. Nothing here reads a clock or
a global generator, and nothing depends on what a policy will do.

Source of every fitted number: 692 Claude Code sessions of callanjfox/kv-cache-tester without exact duplicates (45,542
main and 676 sub-agent requests); ``LN(mu, sigma)`` is a log-normal in natural logs of tokens or seconds.
"""

from dataclasses import dataclass

import numpy as np

from kv_cache_rl import ENVIRONMENT_VERSION
from kv_cache_rl.core.geometry import MODELS, bytes_per_token
from kv_cache_rl.core.hardware import HARDWARE, LINKS, kv_capacity_tokens
from kv_cache_rl.core.precision import LADDER, tolerated_level
from kv_cache_rl.sim.eviction.spec import DIFFICULTIES, PAGE_TOKENS, SPLITS, STEPS, Prefix, Scenario, Session, Turn

STEP_MS = 2000
HARDWARE_NAME, MODEL_NAME = "8xh100-llama-3.1-70b", "llama-3.1-70b"

# Mixtures: (weight, mu, sigma), ...
CONTEXT_MAIN = ((1.0, 11.557, 0.646),)
CONTEXT_SUB = ((0.223, 9.426, 0.188), (0.777, 10.848, 0.389))
FIRST_INPUT = ((0.468, 9.822, 0.178), (0.532, 11.496, 1.014))
FIRST_INPUT_SUB = ((1.0, 9.284, 0.152),)
NEW_TOOL = ((1.0, 5.857, 1.827),)
NEW_USER = ((1.0, 5.544, 1.696),)
NEW_SUB = ((1.0, 7.579, 1.551),)
OUT = ((0.470, 5.065, 0.392), (0.530, 6.010, 0.978))
GAP_TOOL = ((0.347, 1.640, 0.322), (0.354, 2.365, 0.531), (0.299, 3.679, 1.575))
GAP_END = ((0.110, 1.400, 0.387), (0.890, 5.602, 1.869))
GAP_SUB = ((0.752, 1.259, 0.381), (0.248, 2.853, 1.123))
TOKENS_PER_SECOND = ((1.0, 3.33, 0.37),)
PREFIX_TOKENS = ((1.0, 9.561, 0.164),)
CARRIED_NOTHING_NEW = 0.115
END_TURN_AFTER_TOOL, END_TURN_AFTER_USER = 0.047, 0.186
ANOTHER_AFTER_TOOL, ANOTHER_AFTER_END = 0.9919, 0.868
SUB_AGENT_TURNS = 10.7
HISTORY_REWRITTEN = 0.0185
THINKS = 0.47

# Choices, not measurements: what the sessions work on. The traces do not say.
CLASS_SHARES = {"chat": 0.13, "extraction": 0.10, "code": 0.30, "reasoning": 0.47}


@dataclass(frozen=True, slots=True)
class Tier:
    """What a difficulty means. Shares are of the budget unless they say otherwise."""

    budget: tuple[float, float]
    """Share of the GPU's cache that the tier grants."""
    demand: float
    """Tokens of live contexts over the budget."""
    arrivals: float
    """New sessions per window, mean."""
    bursts: int
    """Windows at which several new sessions come at once."""
    sub_agents: float
    """Share of sub-agents among the sessions."""
    leftover: float
    """Contexts of agents that are gone but still cached at the start."""
    cpu: float
    """Size of the CPU pool."""


TIERS = {
    "easy": Tier((0.90, 1.00), 2.6, 0.10, 0, 0.05, 0.10, 0.30),
    "medium": Tier((0.75, 0.90), 3.1, 0.20, 1, 0.05, 0.15, 0.12),
    "hard": Tier((0.65, 0.80), 3.8, 0.30, 2, 0.05, 0.25, 0.05),
}


def _draw(rng, mixture):
    weights = [part[0] for part in mixture]
    part = mixture[int(np.searchsorted(np.cumsum(weights) / sum(weights), rng.random(), side="right"))]
    return float(np.exp(part[1] + part[2] * rng.standard_normal()))


def _tokens(rng, mixture, low, high):
    return int(min(max(round(_draw(rng, mixture)), low), high))


@dataclass(slots=True)
class _Live:
    """One session while it is drawn: seconds relative to the start of the window."""

    sub: bool
    new_here: bool
    thinks: bool
    work_class: str
    rate_s: float
    context: int
    turns: list
    last_end: float | None
    running: tuple | None
    calls_before: int
    stopped: str


def _one_turn(rng, live, user):
    """(new, out, thinking tokens, ends the turn?, history rewritten?) of the next call."""
    if live.sub:
        new = _tokens(rng, NEW_SUB, 0, 20_000)
        ends = rng.random() < 1 / SUB_AGENT_TURNS
    else:
        new = 0 if rng.random() < CARRIED_NOTHING_NEW else _tokens(rng, NEW_USER if user else NEW_TOOL, 1, 30_000)
        ends = rng.random() < (END_TURN_AFTER_USER if user else END_TURN_AFTER_TOOL)
    out = _tokens(rng, OUT, 16, 2_000)
    thought = round(out * rng.uniform(0.3, 0.7)) if live.thinks else 0
    return new, out, thought, ends, not live.sub and rng.random() < HISTORY_REWRITTEN


def _gap(rng, live, ended):
    """Seconds until the next call, or None if there is none."""
    if live.sub:
        return None if ended else _draw(rng, GAP_SUB)
    if rng.random() >= (ANOTHER_AFTER_END if ended else ANOTHER_AFTER_TOOL):
        return None
    return _draw(rng, GAP_END if ended else GAP_TOOL)


def _draw_session(rng, sub, start_s, context, window_s, new_here):
    """Runs the alternating process of one session from `start_s` to the end of the window."""
    work = str(rng.choice(list(CLASS_SHARES), p=list(CLASS_SHARES.values())))
    thinks = not sub and work == "reasoning"
    live = _Live(sub, new_here, bool(thinks), work, _draw(rng, TOKENS_PER_SECOND), context, [], None, None, 0, "")
    t, user = start_s, not sub
    while t < window_s:
        new, out, thought, ends, rewritten = _one_turn(rng, live, user)
        end = t + out / live.rate_s
        if end > 0:
            live.turns.append((t, new, out, thought, ends, rewritten and end < window_s))
        else:
            live.last_end, live.calls_before = end, live.calls_before + 1
        live.stopped = live.stopped if end > 0 else ("end" if ends else "tool")
        gap = _gap(rng, live, ends)
        if gap is None:
            if live.turns:
                live.turns.append(None)
            break
        t, user = end + gap, ends
    return live


def _leaves(live, ends, over):
    if live.sub and over:
        return "ephemeral"
    return "context" if ends else "tool_result"


def _to_turns(live, own, started, rate, step_s, cap):
    """Turn tuple in steps. `own` tokens of context stand before the first turn; `started` is how many it has decoded."""
    turns = []
    drawn = [d for d in live.turns if d is not None]
    over = len(drawn) < len(live.turns)
    context = own
    for k, (t, new, out, thought, ends, rewritten) in enumerate(drawn):
        new = min(new, max(cap - context - out, 0))
        arrive = int(np.floor(t / step_s))
        last = over and k == len(drawn) - 1
        leaves = _leaves(live, ends, last)
        total = context + new + out
        dead, after = "", total
        if rewritten and not last:
            dead, after = "ephemeral", 0
        elif thought and leaves != "ephemeral":
            dead, after = "reasoning", total - thought
        turns.append(Turn(arrive, context, new, out, after, dead, leaves))
        if rewritten and not last:
            # The agent rewrote its history: the old context is dead, the next call brings one as long.
            drawn[k + 1 : k + 2] = [(*drawn[k + 1][:1], min(total, cap - 2_100), *drawn[k + 1][2:])] if k + 1 < len(drawn) else []
        context = after
    return tuple(turns)


def generate(difficulty: str, seed: int, split: str = "train", index: int = 0) -> Scenario:
    """One unselected scenario of a tier, the same bytes for the same arguments on every machine."""
    tier = TIERS[difficulty]
    rng = np.random.default_rng([seed, SPLITS.index(split), DIFFICULTIES.index(difficulty), index])
    profile, model = HARDWARE[HARDWARE_NAME], MODELS[MODEL_NAME]
    link = LINKS[profile.link]
    gpu_pages = kv_capacity_tokens(profile, model) // PAGE_TOKENS
    budget_pages = round(gpu_pages * rng.uniform(*tier.budget))
    budget_tokens = budget_pages * PAGE_TOKENS
    step_s, window_s = STEP_MS / 1000, STEPS * STEP_MS / 1000
    cap = budget_tokens // 6
    prefixes = tuple(Prefix(f"p{k}", f"sys{k}", _tokens(rng, PREFIX_TOKENS, 8_000, 22_000)) for k in range(3))
    shared = [p.tokens for p in prefixes]

    lives = []
    total = 0
    while total < tier.demand * budget_tokens:
        sub = rng.random() < tier.sub_agents
        live = _draw_session(rng, sub, -rng.uniform(0, 400), 0, window_s, False)
        if live.last_end is None and live.turns and live.turns[0] is not None and live.turns[0][0] >= 0: continue
        if not (live.turns and live.turns[0] is not None and live.turns[0][0] < 0) and (live.last_end is None or live.last_end < -100):
            continue
        live.context = _tokens(rng, CONTEXT_SUB if sub else CONTEXT_MAIN, 9_000, cap + shared[2 if sub else 0])
        total += live.context
        lives.append(live)
    gone = 0
    while gone < tier.leftover * budget_tokens:
        live = _Live(True, False, False, "code", 38.0, _tokens(rng, CONTEXT_SUB, 9_000, cap), [], -rng.uniform(1, 60), None, 8, "gone")
        gone += live.context
        lives.append(live)
    burst_at = [rng.uniform(4, window_s - 8) for _ in range(tier.bursts)]
    for _ in range(int(rng.poisson(tier.arrivals * STEPS))):
        at = burst_at[int(rng.integers(len(burst_at)))] if burst_at and rng.random() < 0.6 else rng.uniform(0, window_s)
        sub = rng.random() < tier.sub_agents
        live = _draw_session(rng, sub, at, 0, window_s, True)
        live.context = _tokens(rng, FIRST_INPUT_SUB if sub else FIRST_INPUT, 9_000, cap)
        lives.append(live)
    return _assemble(rng, tier, difficulty, split, seed, index, lives, prefixes, link, profile, model, gpu_pages, budget_pages, step_s, cap)


def _assemble(rng, tier, difficulty, split, seed, index, lives, prefixes, link, profile, model, gpu_pages, budget_pages, step_s, cap):
    order = sorted(range(len(lives)), key=lambda k: _recency(lives[k]))
    place = {}
    gpu_left = budget_pages * 0.95 - sum(-(-p.tokens // PAGE_TOKENS) for p in prefixes)
    on_cpu = 0
    sessions = []
    specs = []
    for k in order:
        live = lives[k]
        prefix = 2 if live.sub else int(rng.random() < 0.35)
        own = max(live.context - prefixes[prefix].tokens, 500)
        rate = max(round(live.rate_s * step_s), 8)
        first = next((d for d in live.turns if d is not None), None)
        running = first is not None and first[0] < 0
        started = min(int(-first[0] * live.rate_s), first[2] - rate - 1) if running else 0
        if running and started <= 0:
            started = 1
        tokens, where = own, "none"
        if running:
            tokens = own + first[1] + started
        if live.new_here:
            tokens = 0
        else:
            pages = -(-tokens // PAGE_TOKENS)
            if pages <= gpu_left:
                where, gpu_left = "gpu", gpu_left - pages
            elif live.stopped == "gone":
                continue
            else:
                where, tokens = "cpu", own
                on_cpu += -(-own // PAGE_TOKENS)
        specs.append((live, prefix, own, rate, running and where == "gpu", started, tokens, where))
    for n, (live, prefix, own, rate, running, started, tokens, where) in enumerate(specs):
        turns = _session_turns(live, own, rate, running, started, step_s, cap)
        if where == "none" and not turns:
            continue
        if running:
            kind = "generation"
        elif live.stopped == "gone" or (live.sub and not turns and live.stopped == "end"):
            kind = "ephemeral"
        else:
            kind = "context" if live.stopped == "end" or live.new_here else "tool_result"
        if where == "cpu" or (where == "gpu" and not running):
            tokens = own
        last = 0 if running else int(np.floor((live.last_end if live.last_end is not None else -1.0) / step_s))
        sessions.append(
            Session(
                f"s{n}", kind, live.work_class, LADDER[tolerated_level(live.work_class, rng.random())],
                int(np.clip(round(rng.normal(500, 220)), 0, 1000)), rate, prefix, where, tokens if where != "none" else 0,
                min(last, 0), live.calls_before, turns,
            )
        )  # fmt: skip
    cpu_pages = on_cpu + round(budget_pages * tier.cpu)
    page_bytes = bytes_per_token(model) * PAGE_TOKENS
    return Scenario(
        id=f"eviction-{split}-{difficulty}-{index:04d}-v{ENVIRONMENT_VERSION}",
        version=ENVIRONMENT_VERSION, difficulty=difficulty, split=split, seed=seed, source="generated",
        hardware=profile.name, model=model.name, steps=STEPS, step_ms=STEP_MS,
        gpu_pages=gpu_pages, budget_pages=budget_pages, cpu_pages=cpu_pages,
        link_ns_per_page=round(page_bytes / (link.one_way * profile.links) * 1e9), link_fixed_us=round(link.latency_s * 1e6),
        prefill_c1_ns=round(profile.prefill_c1_s * 1e9), prefill_c2_ps=round(profile.prefill_c2_s * 1e12),
        norm=500 * STEP_MS // 100, prefixes=prefixes, sessions=tuple(sessions),
    )  # fmt: skip


def _recency(live):
    """Seconds since the last use; running and new sessions first."""
    if live.new_here or any(d is not None and d[0] < 0 for d in live.turns):
        return 0.0
    return -(live.last_end if live.last_end is not None else 0.0)


def _session_turns(live, own, rate, running, started, step_s, cap):
    turns = _to_turns(live, own, started, rate, step_s, cap)
    if turns and turns[0].arrive < 0 and not running:
        # It was running before the window but has no room at the start: it queues from the first window.
        return (Turn(0, *[getattr(turns[0], f) for f in ("context", "new", "out", "after", "dead", "leaves")]), *turns[1:])
    return turns

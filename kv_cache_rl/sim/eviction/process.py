"""The fitted session process: calls and pauses in turn, seen through a window of half a minute.

Source of every fitted number: 692 Claude Code sessions of callanjfox/kv-cache-tester without exact
duplicates (45,542 main and 676 sub-agent requests). A mixture is ((weight, mu, sigma), ...):
log-normals in natural logs of tokens or seconds."""

from dataclasses import dataclass

import numpy as np

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
TOKENS_PER_SECOND = ((1.0, 3.64, 0.37),)
PREFIX_TOKENS = ((1.0, 9.561, 0.164),)
NO_NEW_TOKENS = 0.115
END_TURN_AFTER_TOOL, END_TURN_AFTER_USER = 0.047, 0.186
ANOTHER_AFTER_TOOL, ANOTHER_AFTER_END = 0.9919, 0.868
SUB_AGENT_TURNS = 10.7
HISTORY_REWRITTEN = 0.0185
THINKS = 0.47

CLASS_SHARES = {"chat": 0.13, "extraction": 0.10, "code": 0.30, "reasoning": THINKS}
"""Reasoning is the measured share of sessions that think. How the rest splits is a choice: the traces do not
show it."""

LIVE_S = 150.0
"""A session counts as live for this long after its last call: half of those idle for less than a
minute return within 30 s, one in six of those idle for one to two, one in twelve beyond."""


def draw(rng: np.random.Generator, mixture) -> float:
    """One value of a log-normal mixture."""
    weights = np.cumsum([part[0] for part in mixture])
    part = mixture[int(np.searchsorted(weights / weights[-1], rng.random(), side="right"))]
    return float(np.exp(part[1] + part[2] * rng.standard_normal()))


def draw_tokens(rng: np.random.Generator, mixture, low: int, high: int) -> int:
    """A whole number of tokens, clipped."""
    return int(min(max(round(draw(rng, mixture)), low), high))


@dataclass(frozen=True, slots=True)
class DraftTurn:
    """A call, in seconds from the window's start."""

    at_s: float
    new: int
    """Prompt tokens it adds; -1 for a rewritten history as long as the one before."""
    out: int
    thought: int
    """Tokens of `out` that no later call reads."""
    ends: bool
    """The agent's turn is over: the user is next, not a tool."""
    kept: int = -1
    """Tokens of the context it builds on; -1 for all, fewer where the history was cut or rewritten."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A session as its process left it: what it holds and will ask for, without a place in memory yet."""

    prefix: int
    work_class: str
    tolerance: float
    """Uniform draw that decides which precision it bears."""
    priority: int
    rate_s: float
    context: int
    """Own tokens at the start (of its first turn, if that runs or comes); 0 if it begins in the window."""
    last_s: float
    """When its last call ended, at most 0; 0 while one runs."""
    calls: int
    stopped: str
    """How its last call ended: "tool", "end", or "gone" if no call follows."""
    turns: tuple[DraftTurn, ...]
    over: bool
    """No call follows the last turn, and that can be seen (a finished sub-agent)."""

    @property
    def running(self) -> bool:
        return bool(self.turns) and self.turns[0].at_s < 0


def next_call(rng, sub: bool, thinks: bool, user: bool) -> tuple[int, int, int, bool, bool]:
    """New tokens, answer, dead part of it, whether it ends the turn, and whether the history is rewritten."""
    if sub:
        new, ends = draw_tokens(rng, NEW_SUB, 0, 20_000), rng.random() < 1 / SUB_AGENT_TURNS
    else:
        new = (
            0 if rng.random() < NO_NEW_TOKENS else draw_tokens(rng, NEW_USER if user else NEW_TOOL, 1, 30_000)
        )
        ends = rng.random() < (END_TURN_AFTER_USER if user else END_TURN_AFTER_TOOL)
    out = draw_tokens(rng, OUT, 16, 2_000)
    thought = round(out * rng.uniform(0.3, 0.7)) if thinks else 0
    return new, out, thought, bool(ends), bool(not sub and rng.random() < HISTORY_REWRITTEN)


def gap_after(rng, sub: bool, ended: bool) -> float | None:
    """Seconds until the next call, or None if none follows."""
    if sub:
        return None if ended else draw(rng, GAP_SUB)
    if rng.random() >= (ANOTHER_AFTER_END if ended else ANOTHER_AFTER_TOOL):
        return None
    return draw(rng, GAP_END if ended else GAP_TOOL)


def run_session(
    rng: np.random.Generator, sub: bool, start_s: float, window_s: float, prefix: int, context
) -> Draft | None:
    """One session whose calls begin at `start_s`; None if it is never live in the window.

    Args:
        context: function of nothing that draws the own tokens at the start.
    """
    work = str(rng.choice(list(CLASS_SHARES), p=list(CLASS_SHARES.values())))
    rate_s, thinks = draw(rng, TOKENS_PER_SECOND), work == "reasoning" and not sub
    turns: list[DraftTurn] = []
    t, user, last_s, calls, stopped, over, rewritten = start_s, not sub, None, 0, "tool", False, False
    while t < window_s:
        new, out, thought, ends, rewrites = next_call(rng, sub, thinks, user)
        end = t + out / rate_s
        if end > 0:
            again = rewritten and bool(turns)
            turns.append(DraftTurn(t, -1 if again else new, out, thought, ends, 0 if again else -1))
        else:
            last_s, calls, stopped = end, calls + 1, "end" if ends else "tool"
        gap, rewritten = gap_after(rng, sub, ends), rewrites
        if gap is None:
            over = sub
            if not turns and sub:
                stopped = "gone"
            break
        t, user = end + gap, ends
    begins_here = start_s >= 0
    running = bool(turns) and turns[0].at_s < 0
    if not begins_here and not running and (last_s is None or last_s < -LIVE_S):
        return None
    priority = int(np.clip(round(rng.normal(500, 220)), 0, 1000))
    return Draft(
        prefix, work, float(rng.random()), priority, rate_s, context(),
        0.0 if running or last_s is None else last_s,
        calls, stopped, tuple(turns), over,
    )  # fmt: skip

"""The session process, compiled: what `sim.eviction.process` draws, written a second time.

Hundreds of futures are drawn in a window. A test compares what the two draw."""

import numpy as np

from kv_cache_rl.core.precision import LADDER, PRECISIONS, WORK_CLASSES
from kv_cache_rl.jit import njit
from kv_cache_rl.sim.eviction import process as p
from kv_cache_rl.sim.eviction.columns import record

TRIES = 300
"""Draws of a condition that few draws meet, before the last one is taken."""

CALLS = record(("at_s", np.float64), "new", "out", "thought", "ends", "kept")
"""`process.DraftTurn`"""


def _mixture(parts) -> np.ndarray:
    """Cumulated weight, mu and sigma of every part."""
    table = np.array(parts, np.float64)
    table[:, 0] = np.cumsum(table[:, 0]) / table[:, 0].sum()
    return table


OUT, _NEW_SUB, _NEW_USER, _NEW_TOOL = map(_mixture, (p.OUT, p.NEW_SUB, p.NEW_USER, p.NEW_TOOL))
_GAP_SUB, _GAP_END, _GAP_TOOL = map(_mixture, (p.GAP_SUB, p.GAP_END, p.GAP_TOOL))
FIRST, FIRST_SUB, RATE = map(_mixture, (p.FIRST_INPUT, p.FIRST_INPUT_SUB, p.TOKENS_PER_SECOND))
_SHARES = np.cumsum(list(p.CLASS_SHARES.values()))
_SHARES /= _SHARES[-1]
_CLASSES = np.array([WORK_CLASSES.index(name) for name in p.CLASS_SHARES])
_LOSS = np.array([[PRECISIONS[name].loss[work] for name in LADDER] for work in WORK_CLASSES])
REASONING = WORK_CLASSES.index("reasoning")


@njit
def draw(rng, mixture):
    """`process.draw`"""
    chance, k = rng.random(), 0
    while k < len(mixture) - 1 and chance >= mixture[k, 0]:
        k += 1
    return np.exp(mixture[k, 1] + mixture[k, 2] * rng.standard_normal())


@njit
def draw_tokens(rng, mixture, low, high):
    """`process.draw_tokens`"""
    return min(max(round(draw(rng, mixture)), low), high)


@njit
def draw_class(rng):
    chance, k = rng.random(), 0
    while k < len(_SHARES) - 1 and chance >= _SHARES[k]:
        k += 1
    return _CLASSES[k]


@njit
def next_call(rng, sub, thinks, user):
    """`process.next_call`"""
    if sub:
        new = draw_tokens(rng, _NEW_SUB, 0, 20_000)
        ends = rng.random() < 1 / p.SUB_AGENT_TURNS
    else:
        new = 0
        if rng.random() >= p.NO_NEW_TOKENS:
            new = draw_tokens(rng, _NEW_USER if user else _NEW_TOOL, 1, 30_000)
        ends = rng.random() < (p.END_TURN_AFTER_USER if user else p.END_TURN_AFTER_TOOL)
    out = draw_tokens(rng, OUT, 16, 2_000)
    thought = round(out * (0.3 + 0.4 * rng.random())) if thinks else 0
    rewrites = not sub and rng.random() < p.HISTORY_REWRITTEN
    return new, out, thought, ends, rewrites


@njit
def gap_after(rng, sub, ended):
    """`process.gap_after`, infinite where no call follows."""
    if sub:
        return np.inf if ended else draw(rng, _GAP_SUB)
    if rng.random() >= (p.ANOTHER_AFTER_END if ended else p.ANOTHER_AFTER_TOOL):
        return np.inf
    return draw(rng, _GAP_END) if ended else draw(rng, _GAP_TOOL)


@njit
def draw_tolerance(rng, work, bears, breaks):
    level = bears
    for _ in range(TRIES):
        chance, level = rng.random(), 0
        for k in range(_LOSS.shape[1]):
            if chance >= _LOSS[work, k]:
                level = k
        if bears <= level < breaks:
            return level
    return bears


@njit
def calls_from(rng, at_s, until_s, sub, thinks, user, rate_s, calls, n):
    """Appends the calls from `at_s` to the episode's end; how many there are then, and whether it is over."""
    first, rewritten = n, False
    while at_s < until_s and n < len(calls):
        new, out, thought, ends, rewrites = next_call(rng, sub, thinks, user)
        again = rewritten and n > first
        calls[n].at_s, calls[n].new, calls[n].out = at_s, -1 if again else new, out
        calls[n].thought, calls[n].ends, calls[n].kept = thought, 1 if ends else 0, 0 if again else -1
        n += 1
        gap = gap_after(rng, sub, ends)
        if gap == np.inf:
            return n, sub
        at_s, user, rewritten = at_s + out / rate_s + gap, ends, rewrites
    return n, False

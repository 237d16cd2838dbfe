"""What the oracle proposes in a window, and how an episode goes on when it always follows one proposal.

Proposals are differently tuned clairvoyant weighings, which know who returns and which precision is borne,
and the shipped deciders, which do not."""

from typing import NamedTuple

import numpy as np

from kv_cache_rl.jit import njit, uncounted
from kv_cache_rl.sim.eviction.deciders import MAX_OUT, POLICY_IDS, decide
from kv_cache_rl.sim.eviction.dynamics import COMPRESS, EVICT, KEEP, SWAP, advance, new_lists
from kv_cache_rl.sim.eviction.observe import MAX_ROWS, N_ROWS, V_SLOT, VIEW_COLS, VIEW_HEAD, look
from kv_cache_rl.sim.eviction.score import total_return
from kv_cache_rl.sim.eviction.state import (
    ARRIVE,
    FIRST_TURN,
    IDLE,
    NUM_TURNS,
    PHASE,
    ROLE,
    ROLE_ANCHOR,
    ROLE_SESSION,
    SLOTS,
    STEPS_,
    TOLERANCE,
    TURN,
    T,
    columns_of,
    counters_of,
)  # fmt: skip
from kv_cache_rl.sim.eviction.weighing import choose, shortage

ALL_VERBS = (1 << EVICT) | (1 << COMPRESS) | (1 << SWAP)
_NO_EVICT, _NO_SWAP = ALL_VERBS & ~(1 << EVICT), ALL_VERBS & ~(1 << SWAP)

# Clairvoyant variants: units to keep free for sure and where cheap (thousandths of the budget), weight of
# distant returns
# (hundredths), verbs used.
VARIANTS = np.array(
    [
        [0, 0, 0, ALL_VERBS],
        [0, 60, 4, ALL_VERBS],
        [40, 220, 4, ALL_VERBS],
        [60, 220, 12, ALL_VERBS],
        [120, 220, 4, ALL_VERBS],
        [200, 300, 4, ALL_VERBS],
        [200, 520, 12, ALL_VERBS],
        [350, 520, 4, ALL_VERBS],
        [40, 220, 4, _NO_EVICT],
        [200, 300, 4, _NO_EVICT],
        [40, 220, 4, _NO_SWAP],
        [200, 300, 4, _NO_SWAP],
    ],
    np.int64,
)
SILENT = ("stability",)
"""Deciders that bound the oracle from below without proposing: with them among the proposals every stored log
would change.
"""
SHIPPED = np.array(
    [POLICY_IDS[name] for name in POLICY_IDS if name not in ("spam_invalid", *SILENT)], np.int64
)
COMPLETIONS = np.array([2, 5, 9], np.int64)
"""The variants that value a child by playing it to its end."""


class Desk(NamedTuple):
    """Scratch paper of one search: the view, one window's calls, and what the compiled functions write on."""

    rows: np.ndarray
    head: np.ndarray
    out: np.ndarray
    results: np.ndarray
    events: np.ndarray
    lists: np.ndarray
    slots: np.ndarray
    chance: np.ndarray
    loss: np.ndarray
    costs: np.ndarray
    notes: np.ndarray


@njit(inline="always")
def new_desk(scn):
    return Desk(
        np.empty((MAX_ROWS, VIEW_COLS), np.int64),
        np.empty(VIEW_HEAD, np.int64),
        np.empty((MAX_OUT, 2), np.int64),
        np.empty(MAX_OUT, np.int64),
        np.empty((0, 3), np.int64),
        new_lists(scn),
        np.empty((2, scn[SLOTS] + 1), np.int64),
        np.empty(MAX_ROWS),
        np.empty((MAX_ROWS, 3)),
        np.empty(MAX_ROWS),
        np.empty((2, MAX_ROWS), np.int64),
    )


@uncounted
def _foresee(scn, c, rows, n, distance, chance, loss):
    """True need of each shown entry: 0 if nobody asks for it again, less the later they do; and its true
    tolerance.
    """
    static, dyn, t = c.static, c.dyn, c.counters[T]
    for k in range(n):
        i = rows[k, V_SLOT]
        chance[k] = 1.0 if static[ROLE, i] == ROLE_ANCHOR else 0.0
        for level in range(3):
            loss[k, level] = 1.0 if static[ROLE, i] == ROLE_SESSION and level > static[TOLERANCE, i] else 0.0
        if static[ROLE, i] != ROLE_SESSION:
            continue
        if dyn[PHASE, i] != IDLE:
            chance[k] = 1.0
        elif dyn[TURN, i] < static[NUM_TURNS, i]:
            ahead = c.turns[static[FIRST_TURN, i] + dyn[TURN, i], ARRIVE] - t
            if t + ahead < scn[STEPS_]:
                chance[k] = 1.0 / (1.0 + 0.01 * distance * max(ahead, 0))


@uncounted
def _clairvoyant(scn, state, variant, desk):
    head, n = desk.head, desk.head[N_ROWS]
    _foresee(scn, columns_of(scn, state), desk.rows, n, variant[2], desk.chance, desk.loss)
    must, wish = shortage(head, variant[0]), shortage(head, variant[1])
    return choose(desk.rows, n, head, desk.chance, desk.loss, must, wish, desk.out, desk.costs, desk.notes)


@uncounted
def _allowed_calls(desk, m, allowed):
    """Leaves the first of `m` calls (verb and slot in place of the row) whose verbs are allowed; returns how
    many.
    """
    out, kept = desk.out, 0
    for c in range(m):
        verb = out[c, 0]
        if verb == KEEP or (allowed >> verb) & 1 == 0 or out[c, 1] < 0:
            continue
        out[kept, 0], out[kept, 1] = verb, desk.rows[out[c, 1], V_SLOT]
        kept += 1
    return kept


@uncounted
def write(calls, n, target):
    """Copies the first `n` of a window's calls."""
    for c in range(n):
        target[c, 0], target[c, 1] = calls[c, 0], calls[c, 1]


@uncounted
def alike(calls, n, other_calls, other_n):
    """Whether two windows have the same calls, `n` and `other_n` of them, in the same order."""
    c = 0
    while c < n and calls[c, 0] == other_calls[c, 0] and calls[c, 1] == other_calls[c, 1]:
        c += 1
    return n == other_n and c == n


@uncounted
def propose(scn, state, desk, k, variants, shipped, allowed):
    """Writes the calls of proposal `k` for the state whose whole view is on the desk, without verbs that are
    not allowed.
    """
    if k < len(variants):
        return _allowed_calls(desk, _clairvoyant(scn, state, variants[k], desk), allowed & variants[k, 3])
    return _allowed_calls(desk, decide(shipped[k - len(variants)], desk.rows, desk.head, desk.out), allowed)


@uncounted
def complete(scn, state, desk, k, variants, shipped, allowed, calls, counts):
    """Finishes the episode in `state` with proposal `k`, writing its calls; returns the return."""
    counters, out = counters_of(scn, state), desk.out
    while counters[T] < scn[STEPS_]:
        t = counters[T]
        look(scn, state, desk.rows, desk.head, desk.slots, k >= len(variants))
        m = propose(scn, state, desk, k, variants, shipped, allowed)
        write(out, m, calls[t])
        counts[t] = m
        advance(scn, state, out[:m], desk.results, desk.events, desk.lists)
    return total_return(scn, state)

"""What the oracle proposes in a window, and how an episode goes on when it always follows one proposal.

Proposals are the differently tuned clairvoyant weighings, which know what returns and which precision
each entry bears, and the shipped deciders, which do not."""

from typing import NamedTuple

import numpy as np

from kv_cache_rl.jit import njit, uncounted
from kv_cache_rl.sim.eviction.actions import ALL_VERBS, Verb
from kv_cache_rl.sim.eviction.columns import (
    CALL,
    EVENT,
    Counter,
    Phase,
    Role,
    Slot,
    Static,
    columns_of,
    constants_of,
)
from kv_cache_rl.sim.eviction.deciders import MAX_OUT, REGISTRY, decide, policy_id
from kv_cache_rl.sim.eviction.dynamics import advance, new_lists
from kv_cache_rl.sim.eviction.observe import HEAD, MAX_ROWS, ROW, look
from kv_cache_rl.sim.eviction.score import total_return
from kv_cache_rl.sim.eviction.weighing import LEVELS, PRICED, by_hand, choose, shortage

AS_MADE = -1
"""In place of a set of verbs: every call as it was made, also `keep` and ids that do not exist."""
_NO_EVICT, _NO_SWAP = ALL_VERBS & ~(1 << Verb.EVICT), ALL_VERBS & ~(1 << Verb.SWAP)

# Clairvoyant variants: units to keep free for sure and where cheap (thousandths of the budget), weight of
# distant returns (hundredths), verbs used.
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
SHIPPED = np.array([policy_id(name) for name, one in REGISTRY.items() if one.proposes], np.int64)
SILENT = tuple(
    name for name, one in REGISTRY.items() if one.shipped and not (one.canary or one.proposes or one.trained)
)
"""Deciders that bound the oracle from below. They do not propose, which would change stored logs."""
TRAINED = tuple(name for name, one in REGISTRY.items() if one.trained and not one.trained.trouble)
"""Those with usable weights bound it, too, but not a set's references: these would depend on what is trained
on them."""
COMPLETIONS = np.array([2, 5, 9], np.int64)
"""The variants that value a child by playing it to its end."""


class Desk(NamedTuple):
    """Room to work in for one search."""

    rows: np.ndarray
    """The view: `ROW` ``[MAX_ROWS]``"""
    head: np.ndarray
    """`HEAD` ``[1]``"""
    out: np.ndarray
    """Calls of one window: `CALL` ``[MAX_OUT]``"""
    results: np.ndarray
    events: np.ndarray
    lists: np.ndarray
    """For `advance`"""
    slots: np.ndarray
    """For `look`"""
    chance: np.ndarray
    loss: np.ndarray
    usual: np.ndarray
    """Prices of 1"""
    costs: np.ndarray
    notes: np.ndarray
    """As `choose` takes them, like the four before"""


@njit(inline="always")
def new_desk(scn):
    return Desk(
        np.empty(MAX_ROWS, ROW),
        np.empty(1, HEAD),
        np.empty(MAX_OUT, CALL),
        np.empty(MAX_OUT, np.int64),
        np.empty(0, EVENT),
        new_lists(scn),
        np.empty((2, constants_of(scn).slots + 1), np.int64),
        np.empty(MAX_ROWS),
        np.empty((MAX_ROWS, LEVELS)),
        np.ones((MAX_ROWS, PRICED)),
        np.empty(MAX_ROWS),
        np.empty((2, MAX_ROWS), np.int64),
    )


def new_log(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Room for the calls of an episode: `CALL` ``[steps, MAX_OUT]``, and how many count per window."""
    return np.zeros((steps, MAX_OUT), CALL), np.zeros(steps, np.int64)


@uncounted
def _foresee(c, rows, n, distance, chance, loss):
    """Writes each shown entry's true need (0 without a reader, less the later) and true tolerance."""
    static, dyn, t = c.static, c.dyn, c.counters[Counter.WINDOW]
    for k in range(n):
        i = rows[k].slot
        session = static[Static.ROLE, i] == Role.SESSION
        chance[k] = 1.0 if static[Static.ROLE, i] == Role.ANCHOR else 0.0
        for level in range(LEVELS):
            loss[k, level] = 1.0 if session and level > static[Static.TOLERANCE, i] else 0.0
        if not session:
            continue
        if dyn[Slot.PHASE, i] != Phase.IDLE:
            chance[k] = 1.0
        elif dyn[Slot.TURN, i] < static[Static.NUM_TURNS, i]:
            ahead = c.turns[static[Static.FIRST_TURN, i] + dyn[Slot.TURN, i]].arrive - t
            if t + ahead < c.constants.steps:
                chance[k] = 1.0 / (1.0 + 0.01 * distance * max(ahead, 0))


@uncounted
def _clairvoyant(scn, live, variant, desk):
    head = desk.head[0]
    n = head.rows
    _foresee(columns_of(scn, live), desk.rows, n, variant[2], desk.chance, desk.loss)
    must, wish = shortage(head, variant[0]), shortage(head, variant[1])
    w = by_hand()
    return choose(
        desk.rows, n, head, desk.chance, desk.loss, desk.usual, must, wish, w.cheap, w, ALL_VERBS,
        desk.out, desk.costs, desk.notes,
    )  # fmt: skip


@uncounted
def allowed_calls(desk, m, allowed):
    """Leaves those of `m` calls whose verbs are allowed, with slots in place of rows; returns how many."""
    out, kept = desk.out, 0
    for k in range(m):
        verb, row = out[k].verb, out[k].entry
        if (allowed >> verb) & 1 == 0 or (row < 0 and allowed != AS_MADE):
            continue
        out[kept].verb, out[kept].entry = verb, desk.rows[row].slot if row >= 0 else row
        kept += 1
    return kept


@uncounted
def write(calls, n, target):
    """Copies the first `n` of a window's calls."""
    for k in range(n):
        target[k].verb, target[k].entry = calls[k].verb, calls[k].entry


@uncounted
def alike(calls, n, other_calls, other_n):
    """Whether two windows have the same calls, `n` and `other_n` of them, in the same order."""
    if n != other_n:
        return False
    for k in range(n):
        if calls[k].verb != other_calls[k].verb or calls[k].entry != other_calls[k].entry:
            return False
    return True


@uncounted
def propose(scn, live, desk, k, variants, shipped, allowed):
    """Writes the allowed calls of proposal `k` for the state whose view is on the desk; returns how many."""
    if k < len(variants):
        return allowed_calls(desk, _clairvoyant(scn, live, variants[k], desk), allowed & variants[k, 3])
    m = decide(shipped[k - len(variants)], desk.rows, desk.head[0], desk.out)
    return allowed_calls(desk, m, allowed)


def completing(look_and_call):
    """A compiled function ``(scn, live, desk, plan, calls, counts)`` which finishes the episode, writes its
    calls and returns the return. It is the one loop in which a compiled decider plays.

    Args:
        look_and_call: ``(scn, live, desk, plan) -> how many``; looks at the state, and leaves a window's
            calls on the desk, with slots in place of rows.
    """

    @uncounted(cache=False)
    def play(scn, live, desk, plan, calls, counts):
        c, out = columns_of(scn, live), desk.out
        counters, steps = c.counters, c.constants.steps
        while counters[Counter.WINDOW] < steps:
            t = counters[Counter.WINDOW]
            m = look_and_call(scn, live, desk, plan)
            write(out, m, calls[t])
            counts[t] = m
            advance(scn, live, out[:m], desk.results, desk.events, desk.lists)
        return total_return(scn, live)

    return play


@uncounted
def _look_and_propose(scn, live, desk, plan):
    k, variants, shipped, allowed = plan
    look(scn, live, desk.rows, desk.head[0], desk.slots, k >= len(variants))
    return propose(scn, live, desk, k, variants, shipped, allowed)


_complete = completing(_look_and_propose)


@uncounted
def complete(scn, live, desk, k, variants, shipped, allowed, calls, counts):
    """Finishes the episode with proposal `k`, writing its calls; returns the return."""
    return _complete(scn, live, desk, (k, variants, shipped, allowed), calls, counts)

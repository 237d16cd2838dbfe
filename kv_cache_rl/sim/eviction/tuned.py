"""`tuned`: the weighing with its constants optimised on the training scenarios.

    for each entry:
        importance = (1 - value * shown value) * (1 + priority about its middle)
        chance     = importance                                      if it waits or runs
                     importance * tool or ended / (1 + fade * idle) * left / (left + horizon)   if idle
    weigh every (entry, action) pair with these chances, and make the cheapest calls

Only numbers that every machine rounds alike are used: no exponential, no logarithm."""

import numpy as np

from kv_cache_rl.jit import njit, uncounted
from kv_cache_rl.sim.eviction.actions import ALL_VERBS
from kv_cache_rl.sim.eviction.columns import Kind
from kv_cache_rl.sim.eviction.constants import CONSTANTS
from kv_cache_rl.sim.eviction.observe import Status
from kv_cache_rl.sim.eviction.returns import never_read
from kv_cache_rl.sim.eviction.trained import TUNED
from kv_cache_rl.sim.eviction.weighing import LEVELS, PRICED, choose

_COMMITTED = TUNED.weights.view(CONSTANTS)


@uncounted
def expected_return(row, left, w):
    """How much losing an entry would hurt times the chance that it is asked for again, 0 to 1."""
    if never_read(row):
        return 0.0
    kept = 1.0 - w.value * row.value / 100.0
    kept *= 1.0 - w.priority / 2.0 + w.priority * row.priority / 100.0
    importance = min(max(kept, w.least), 1.0)
    if row.status != Status.IDLE:
        return importance
    if row.kind == Kind.TOOL_RESULT:
        again = w.tool / (1.0 + w.tool_fade * row.idle)
    else:
        again = w.ended / (1.0 + w.ended_fade * row.idle)
    return importance * again * (left / (left + w.horizon))


@uncounted
def expect(rows, n, head, w, chance, loss):
    """Writes each entry's return and its loss at every rung, as the constants say."""
    for k in range(n):
        row = rows[k]
        chance[k] = expected_return(row, head.left, w)
        loss[k, 0] = 0.0
        loss[k, 1] = w.int8[row.work_class]
        loss[k, 2] = loss[k, 1] + w.int4[row.work_class]


@uncounted
def wanted(head, reserve, w):
    """Units to free so that the queue fits and `reserve` (thousandths of the budget) stays free."""
    return head.need * w.queue + np.floor(head.budget * reserve / 1000.0) - (head.budget - head.used)


@uncounted
def choose_tuned(rows, n, head, w, allowed, chance, loss, usual, out, costs, notes):
    """Writes the calls of the weighing with constants `w` (a `CONSTANTS` record), of the `allowed` verbs,
    into `out`; returns how many. `usual` are the prices ``[n, PRICED]`` of 1; the rest is room."""
    expect(rows, n, head, w, chance, loss)
    must, wish = wanted(head, w.must, w), wanted(head, w.wish, w)
    return choose(rows, n, head, chance, loss, usual, must, wish, w.cheap, w, allowed, out, costs, notes)


@njit
def tuned(rows, head, out):
    """The decider with the committed constants."""
    n = head.rows
    chance, loss, usual = np.empty(n), np.empty((n, LEVELS)), np.ones((n, PRICED))
    w, costs, notes = _COMMITTED[0], np.empty(n), np.empty((2, n), np.int64)
    return choose_tuned(rows, n, head, w, ALL_VERBS, chance, loss, usual, out, costs, notes)

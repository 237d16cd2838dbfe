"""Weighing: which (entry, action) pairs free the memory that is short at the least expected cost.

`cost_aware`, `value_aware`, `lookahead` and the oracle's clairvoyant variants differ only in what they
believe about who returns and which precision is borne."""

import numpy as np

from kv_cache_rl.jit import njit, uncounted
from kv_cache_rl.sim.eviction.dynamics import COMPRESS, EVICT, SWAP
from kv_cache_rl.sim.eviction.observe import *
from kv_cache_rl.sim.eviction.spec import MAX_CALLS_PER_STEP
from kv_cache_rl.sim.eviction.state import ON_CPU, SYSTEM, UNITS_PER_PAGE


@uncounted
def size_of(row):
    return row[V_PAGES] * (UNITS_PER_PAGE >> row[V_LEVEL]) if row[V_TYPE] != SYSTEM else 0


@uncounted
def shortage(head, reserve):
    """Units to free so that everyone waiting fits and `reserve` (thousandths of the budget) stays free."""
    return head[NEED] + head[BUDGET_] * reserve // 1000 - (head[BUDGET_] - head[USED])


# Costs in failed requests: a swap-in's delay (per size of a window's link), a second of recompute,
# a window not decoded, a running request sent to the CPU.
_SWAP_COST, _RECOMPUTE_COST, _PAUSE_COST, _INTERRUPT_COST = 0.05, 0.08, 0.03, 0.45
_CHEAP = 0.06
"""What one may pay per thousandth of the budget x 1000 for mere headroom."""


@uncounted
def _cheapest(row, level, chance, loss, head, cpu_free, link):
    """What the cheapest action on one entry costs per unit of memory, and its verb; infinity if there is
    none.
    """
    size = row[V_PAGES] * (UNITS_PER_PAGE >> level)
    if row[V_TYPE] == SYSTEM or size == 0:
        return np.inf, EVICT
    share = size * (1.0 / head[BUDGET_])
    if row[V_PLACE] == ON_CPU:
        # The dead make room in the CPU pool once it is short of one window's traffic.
        return (-share * 0.001 if chance == 0.0 and cpu_free < head[LINK_UNITS] else np.inf), EVICT
    if chance == 0.0:
        return -share, EVICT
    best, verb = np.inf, EVICT
    if level < 2:
        cost = chance * (loss[level + 1] - loss[level])
        if row[V_STATE] > S_WAIT:
            cost += _PAUSE_COST
        if cost / (share / 2) < best:
            best, verb = cost / (share / 2), COMPRESS
    if row[V_STATE] != S_WAIT and size <= cpu_free and link > 0:
        cost = chance * _SWAP_COST * (0.2 + size / head[LINK_UNITS])
        if row[V_STATE] != S_IDLE:
            cost += _INTERRUPT_COST
        if cost / share < best:
            best, verb = cost / share, SWAP
    if row[V_STATE] == S_IDLE:
        cost = chance * row[V_RELOAD] * 0.1 * _RECOMPUTE_COST * (1.0 + head[BACKLOG_MS] / 4000.0)
        if cost / share < best:
            best, verb = cost / share, EVICT
    return best, verb


_GONE = -1


@uncounted
def choose(rows, n, head, chance, loss, must, wish, out, costs, notes):
    """`weigh` on scratch paper: `costs` float64 ``[n]``, `notes` int64 ``[2, n]``."""
    cpu_free, link = head[CPU_CAP] - head[CPU_USED], head[LINK_UNITS]
    level, verbs = notes[0], notes[1]
    for k in range(n):
        level[k] = rows[k, V_LEVEL]
        costs[k], verbs[k] = _cheapest(rows[k], level[k], chance[k], loss[k], head, cpu_free, link)
    freed, m = 0, 0
    while m < MAX_CALLS_PER_STEP:
        best, k = np.inf, -1
        for other in range(n):
            if costs[other] < best:
                best, k = costs[other], other
        if k < 0 or (freed >= must and best > 0 and (freed >= wish or best > _CHEAP)):
            break
        verb, moved = verbs[k], 0
        size = rows[k, V_PAGES] * (UNITS_PER_PAGE >> level[k])
        out[m, 0], out[m, 1] = verb, k
        m += 1
        if verb == COMPRESS:
            freed += size // 2
            level[k] += 1
        else:
            level[k] = _GONE
            costs[k] = np.inf
            if rows[k, V_PLACE] == ON_CPU:
                moved = -size
            else:
                freed += size
                if verb == SWAP:
                    moved = size
                    link -= size
        cpu_free -= moved
        # Room on the CPU and on the link concerns everyone, a precision only its entry.
        for other in range(0 if moved else k, n if moved else k + 1):
            if level[other] != _GONE:
                costs[other], verbs[other] = _cheapest(
                    rows[other], level[other], chance[other], loss[other], head, cpu_free, link
                )
    return m


@njit
def weigh(rows, n, head, chance, loss, must, wish, out):
    """Frees memory by the (entry, action) pairs that cost least per unit, in expected failures.

    Args:
        chance: [n] probability that the entry is asked for again.
        loss: [n, 3] probability that its answer is wrong at 16, 8, 4 bits.
        must: units that whoever waits needs; wish: units worth freeing only where it is cheap.
        out: calls, verb and row.
    """
    return choose(rows, n, head, chance, loss, must, wish, out, np.empty(n), np.empty((2, n), np.int64))

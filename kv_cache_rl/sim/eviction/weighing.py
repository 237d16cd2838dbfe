"""Weighing: which (entry, action) pairs free the memory that is short at the least expected cost.

`cost_aware`, `value_aware`, `lookahead` and the oracle's clairvoyant variants differ only in what they believe about who
returns and which precision is borne.
"""

import numpy as np

from kv_cache_rl.jit import njit
from kv_cache_rl.sim.eviction.dynamics import COMPRESS, EVICT, SWAP
from kv_cache_rl.sim.eviction.observe import *
from kv_cache_rl.sim.eviction.spec import MAX_CALLS_PER_STEP
from kv_cache_rl.sim.eviction.state import ON_CPU, SYSTEM, UNITS_PER_PAGE


@njit
def size_of(row):
    return row[V_PAGES] * (UNITS_PER_PAGE >> row[V_LEVEL]) if row[V_TYPE] != SYSTEM else 0


@njit
def shortage(head, reserve):
    """Units to free so that everyone waiting fits and `reserve` (thousandths of the budget) stays free."""
    return head[NEED] + head[BUDGET_] * reserve // 1000 - (head[BUDGET_] - head[USED])


# Costs in failed requests: a swap-in's delay (per size of a window's link), a second of recompute,
# a window not decoded, a running request sent to the CPU.
_SWAP_COST, _RECOMPUTE_COST, _PAUSE_COST, _INTERRUPT_COST = 0.05, 0.08, 0.03, 0.45
_CHEAP = 0.06
"""What one may pay per thousandth of the budget x 1000 for mere headroom."""


@njit
def weigh(rows, n, head, chance, loss, must, wish, out):
    """Frees memory by the (entry, action) pairs that cost least per unit, in expected failures.

    Args:
        chance: [n] probability that the entry is asked for again.
        loss: [n, 3] probability that its answer is wrong at 16, 8, 4 bits.
        must: units that whoever waits needs; wish: units worth freeing only where it is cheap.
        out: calls, verb and row.
    """
    cpu_free, link = head[CPU_CAP] - head[CPU_USED], head[LINK_UNITS]
    unit = 1.0 / head[BUDGET_]
    lane = 1.0 + head[BACKLOG_MS] / 4000.0
    level = rows[:n, V_LEVEL].copy()
    gone = np.zeros(n, np.bool_)
    freed, m = 0, 0
    while m < MAX_CALLS_PER_STEP:
        best, best_k, best_verb = np.inf, -1, 0
        for k in range(n):
            row = rows[k]
            size = row[V_PAGES] * (UNITS_PER_PAGE >> level[k])
            if gone[k] or row[V_TYPE] == SYSTEM or size == 0:
                continue
            share = size * unit
            if row[V_PLACE] == ON_CPU:
                # The dead make room in the CPU pool once it is short of one window's traffic.
                if chance[k] == 0.0 and cpu_free < head[LINK_UNITS] and best > -share * 0.001:
                    best, best_k, best_verb = -share * 0.001, k, EVICT
                continue
            if chance[k] == 0.0:
                if -share < best:
                    best, best_k, best_verb = -share, k, EVICT
                continue
            if level[k] < 2:
                cost = chance[k] * (loss[k, level[k] + 1] - loss[k, level[k]])
                if row[V_STATE] > S_WAIT:
                    cost += _PAUSE_COST
                if cost / (share / 2) < best:
                    best, best_k, best_verb = cost / (share / 2), k, COMPRESS
            if row[V_STATE] != S_WAIT and size <= cpu_free and link > 0:
                cost = chance[k] * _SWAP_COST * (0.2 + size / head[LINK_UNITS])
                if row[V_STATE] != S_IDLE:
                    cost += _INTERRUPT_COST
                if cost / share < best:
                    best, best_k, best_verb = cost / share, k, SWAP
            if row[V_STATE] != S_IDLE:
                continue
            cost = chance[k] * row[V_RELOAD] * 0.1 * _RECOMPUTE_COST * lane
            if cost / share < best:
                best, best_k, best_verb = cost / share, k, EVICT
        if best_k < 0 or (freed >= must and best > 0 and (freed >= wish or best > _CHEAP)):
            break
        size = rows[best_k, V_PAGES] * (UNITS_PER_PAGE >> level[best_k])
        if best_verb == COMPRESS:
            freed += size // 2
            level[best_k] += 1
        elif rows[best_k, V_PLACE] == ON_CPU:
            cpu_free += size
            gone[best_k] = True
        else:
            freed += size
            gone[best_k] = True
            if best_verb == SWAP:
                cpu_free -= size
                link -= size
        out[m, 0], out[m, 1] = best_verb, best_k
        m += 1
    return m

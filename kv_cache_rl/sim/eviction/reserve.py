"""How much to free ahead of demand, and down to which precision: the queueing controller's reserve mode over
one observation.

A request is in service from its admission to its last token; what it holds then is memory that must be there.
Its rates are declared by the process that the scenarios are fitted to, so that one observation suffices:
nothing is remembered.

    lambda   calls per window: what each idle entry's kind and age promise, and sessions that begin
    E[S]     windows from admission to the last token
    E[B]     mean units of what lives in memory, at its present precision
    reserve  ceil(lambda E[S] E[B] margin) less what running requests hold
    rho      units of all that lives, at 16 bits, over the budget: the load in sessions, whose KV is held between calls too
"""

import numpy as np

from kv_cache_rl.jit import njit
from kv_cache_rl.sim.eviction.observe import (
    BUDGET_,
    N_ROWS,
    S_IDLE,
    V_IDLE,
    V_PAGES,
    V_PLACE,
    V_STATE,
    V_TYPE,
)
from kv_cache_rl.sim.eviction.state import EPHEMERAL, ON_GPU, REASONING, SYSTEM, TOOL_RESULT, UNITS_PER_PAGE
from kv_cache_rl.sim.eviction.weighing import size_of
from kv_cache_rl.theory.flow import FLOW_SIZE, bits_for, blocks_to_keep_free, prime

MARGIN = 1.15
SERVICE_WINDOWS = 5.25
"""Mean answer over mean decode rate (process.OUT, process.TOKENS_PER_SECOND) in windows of 2 s."""
SESSIONS_PER_WINDOW = 0.11
"""Sessions that begin. Source: measured over the committed training scenarios, as are the next two."""
CALLS_TOOL = np.array([0.20, 0.20, 0.14, 0.07, 0.02])
CALLS_END = np.array([0.23, 0.02, 0.01, 0.007, 0.008])
"""P(an idle entry is asked for in the next window | idle for 0-1, 2-3, 4-7, 8-14, 15+), after a tool call and
after a turn's end."""


@njit
def reserve(rows, head):
    """Units to keep free beyond what the queue needs, and the lowest rung of the precision ladder to compress
    to.
    """
    calls, alive, units, running, whole = SESSIONS_PER_WINDOW, 0, 0, 0, 0
    for k in range(head[N_ROWS]):
        row = rows[k]
        if row[V_TYPE] == SYSTEM or row[V_TYPE] == REASONING or row[V_TYPE] == EPHEMERAL:
            continue
        size = size_of(row)
        alive += 1
        units += size
        whole += row[V_PAGES] * UNITS_PER_PAGE
        if row[V_STATE] != S_IDLE:
            running += size if row[V_PLACE] == ON_GPU else 0
        else:
            calls += _next_call(row)
    flow = np.zeros(FLOW_SIZE)
    prime(flow, 1.0, MARGIN, calls, SERVICE_WINDOWS, units / max(alive, 1), 0.0)
    bits = bits_for(whole / head[BUDGET_])
    return blocks_to_keep_free(flow, 0.0, head[BUDGET_], running), 0 if bits == 16 else 1 if bits == 8 else 2


@njit
def _next_call(row):
    """Probability that an idle entry is asked for in the next window."""
    idle = row[V_IDLE]
    bin_ = 0 if idle < 2 else 1 if idle < 4 else 2 if idle < 8 else 3 if idle < 15 else 4
    return CALLS_TOOL[bin_] if row[V_TYPE] == TOOL_RESULT else CALLS_END[bin_]

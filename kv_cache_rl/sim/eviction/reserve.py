"""How much to keep free, and down to which precision: the queueing controller's reserve mode.

A request is in service from its admission to its last token, and its memory must be there all that
time. The rates are declared by the process that the scenarios are fitted to. So one observation
suffices, and nothing is remembered.

    lambda   calls per window: what each idle entry's kind and age promise, and sessions that begin
    E[S]     windows from admission to the last token
    E[B]     mean units of what lives in memory, at its present precision
    reserve  ceil(lambda E[S] E[B] margin) less what running requests hold
    rho      units of all that lives, at 16 bits, over the budget: the load in sessions, which hold
             KV between calls too
"""

import numpy as np

from kv_cache_rl.jit import njit, uncounted
from kv_cache_rl.sim.eviction.columns import UNITS_PER_PAGE, Kind, Place
from kv_cache_rl.sim.eviction.observe import BITS, Status
from kv_cache_rl.sim.eviction.returns import never_read, next_call
from kv_cache_rl.sim.eviction.weighing import size_of
from kv_cache_rl.theory.flow import FLOW_SIZE, bits_for, blocks_to_keep_free, prime

MARGIN = 1.15
SERVICE_WINDOWS = 5.25
"""Mean answer over mean decode rate (process.OUT, process.TOKENS_PER_SECOND) in windows of 2 s."""
SESSIONS_PER_WINDOW = 0.11
"""Sessions that begin. Source: measured over the committed training scenarios."""


@njit
def reserve(rows, head):
    """Units to keep free beyond what the queue needs, and the lowest rung to compress to."""
    calls, alive, units, running, whole = SESSIONS_PER_WINDOW, 0, 0, 0, 0
    for k in range(head.rows):
        row = rows[k]
        if row.kind == Kind.SYSTEM or never_read(row):
            continue
        size = size_of(row)
        alive += 1
        units += size
        whole += row.pages * UNITS_PER_PAGE
        if row.status != Status.IDLE:
            running += size if row.place == Place.GPU else 0
        else:
            calls += next_call(row)
    flow = np.zeros(FLOW_SIZE)
    prime(flow, 1.0, MARGIN, calls, SERVICE_WINDOWS, units / max(alive, 1), 0.0)
    lowest = _rung(bits_for(whole / head.budget))
    return blocks_to_keep_free(flow, 0.0, head.budget, running), lowest


@uncounted
def _rung(bits):
    """The first rung of the ladder that stores no more than `bits`, or the lowest."""
    level = 0
    while level < len(BITS) - 1 and BITS[level] > bits:
        level += 1
    return level

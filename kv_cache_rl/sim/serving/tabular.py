"""A table instead of rules: the view in a few coarse features, the best of six choices in each combination.

==============  ===============================================================================
feature         cells
==============  ===============================================================================
free GPU share  under 1 %, 4 %, 15 %, above
queues          the fuller of both: empty, up to 25 %, 60 %, above
admission       no request can be admitted, one can
idle caches     the longest idle on the GPU: none, up to 60 ticks, longer
CPU             under 90 %, above or without room for what is idle
==============  ===============================================================================

A choice is an action for the class that it suits: admission takes VIPs first, caches go by age, rejection
takes Free users first.
"""

import numpy as np

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.serving.actions import COLLECT, EVICT_OLDEST, NOTHING, REJECT, SWAP_OLDEST
from kv_cache_rl.sim.serving.moves import admission, admit_or_evict, on_oldest, or_nothing

CELLS = (4, 4, 2, 3, 2)
STATES = int(np.prod(CELLS))
CHOICES = (
    "admit",
    "wait",
    "evict_oldest",
    "swap_oldest",
    "reject",
    "collect_garbage",
)
"""Preemption is left to the engine."""
N_CHOICES = len(CHOICES)


@uncounted
def situation(view, mask):
    """Index of the view among the combinations of features."""
    room = 1.0 - view.gpu_utilization_pct
    free = int(room >= 0.01) + int(room >= 0.04) + int(room >= 0.15)
    fuller = max(view.free_queue_pressure, view.vip_queue_pressure)
    queues = int(fuller > 0.0) + int(fuller >= 0.25) + int(fuller >= 0.60)
    admissible = 1 if admission(mask) >= 0 else 0
    idle = 0
    if mask[EVICT_OLDEST] or mask[EVICT_OLDEST + 1]:
        # Ages are shares of 500 ticks.
        idle = 1 + int(max(view.free_age_max, view.vip_age_max) >= 0.12)
    cpu = int(
        view.cpu_utilization_pct >= 0.9 or (idle > 0 and not (mask[SWAP_OLDEST] or mask[SWAP_OLDEST + 1]))
    )
    return (((free * 4 + queues) * 2 + admissible) * 3 + idle) * 2 + cpu


@uncounted
def action_of(choice, view, mask):
    """The action that carries out a choice here; -1 if none does."""
    if choice == 0:
        return admission(mask)
    if choice == 1:
        return NOTHING
    if choice == 2:
        return on_oldest(view, mask, EVICT_OLDEST)
    if choice == 3:
        return on_oldest(view, mask, SWAP_OLDEST)
    if choice == 4:
        if mask[REJECT]:
            return REJECT
        return REJECT + 1 if mask[REJECT + 1] else -1
    return COLLECT if mask[COLLECT] else -1


@uncounted
def best(view, mask, values, row):
    """The choice of highest value in a situation, among those that are possible; the first of equals."""
    found = -1
    for choice in range(N_CHOICES):
        if action_of(choice, view, mask) >= 0 and (found < 0 or values[row + choice] > values[row + found]):
            found = choice
    return found


@uncounted
def tabular(view, mask, memory):
    """The action of the best choice; where the table is empty, as `lru` does.

    `memory` is the table, float64 ``[STATES * N_CHOICES]``.
    """
    row = situation(view, mask) * N_CHOICES
    unknown = True
    for choice in range(N_CHOICES):
        unknown = unknown and memory[row + choice] == 0.0
    if unknown:
        return or_nothing(admit_or_evict(view, mask))
    return action_of(best(view, mask, memory, row), view, mask)

"""A table instead of rules: the view in a few coarse features, the best of six deeds in each combination.

==============  ===============================================================================
feature         cells
==============  ===============================================================================
free GPU share  under 1 %, 4 %, 15 %, above
queues          the fuller of both: empty, up to 25 %, 60 %, above
admission       nobody can be admitted, somebody can
idle caches     the longest idle on the GPU: none, up to 60 ticks, longer
CPU             under 90 %, above or without room for what is idle
==============  ===============================================================================

A deed is an action for the class that it suits: admission takes VIPs first, caches go by age, rejection takes
Free users first."""

import numpy as np

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.serving.actions import COLLECT
from kv_cache_rl.sim.serving.face import (
    CPU,
    FREE_AGE,
    FREE_QUEUE,
    GPU,
    OLDEST_GOES,
    OLDEST_SWAPS,
    TURN_AWAY,
    VIP_AGE,
    VIP_QUEUE,
    WAIT,
    admission,
    of_both,
    oldest_gives_way,
    or_wait,
)

CELLS = (4, 4, 2, 3, 2)
STATES = int(np.prod(CELLS))
DEEDS = (
    "admit",
    "wait",
    "evict_oldest",
    "swap_oldest",
    "reject",
    "collect_garbage",
)
"""Preemption is left to the engine."""
N_DEEDS = len(DEEDS)


@uncounted
def situation(obs, mask):
    """Index of the view among the combinations of features."""
    room = 1.0 - obs[GPU]
    free = int(room >= 0.01) + int(room >= 0.04) + int(room >= 0.15)
    fuller = max(obs[FREE_QUEUE], obs[VIP_QUEUE])
    queues = int(fuller > 0.0) + int(fuller >= 0.25) + int(fuller >= 0.60)
    somebody = 1 if admission(mask) >= 0 else 0
    idle = 0
    if mask[OLDEST_GOES] or mask[OLDEST_GOES + 1]:
        # Ages are shares of 500 ticks.
        idle = 1 + int(max(obs[FREE_AGE], obs[VIP_AGE]) >= 0.12)
    cpu = int(obs[CPU] >= 0.9 or (idle > 0 and not (mask[OLDEST_SWAPS] or mask[OLDEST_SWAPS + 1])))
    return (((free * 4 + queues) * 2 + somebody) * 3 + idle) * 2 + cpu


@uncounted
def action_of(deed, obs, mask):
    """The action that carries out a deed here; -1 if none does."""
    if deed == 0:
        return admission(mask)
    if deed == 1:
        return WAIT
    if deed == 2:
        return of_both(obs, mask, OLDEST_GOES, FREE_AGE, VIP_AGE)
    if deed == 3:
        return of_both(obs, mask, OLDEST_SWAPS, FREE_AGE, VIP_AGE)
    if deed == 4:
        if mask[TURN_AWAY]:
            return TURN_AWAY
        return TURN_AWAY + 1 if mask[TURN_AWAY + 1] else -1
    return COLLECT if mask[COLLECT] else -1


@uncounted
def best(obs, mask, values, row):
    """The deed of highest value in a situation, among those that can be done; the first of equals."""
    found = -1
    for deed in range(N_DEEDS):
        if action_of(deed, obs, mask) >= 0 and (found < 0 or values[row + deed] > values[row + found]):
            found = deed
    return found


@uncounted
def tabular(obs, mask, memory):
    """The action of the best deed;

    `memory` is the table, float64 ``[STATES * N_DEEDS]``. Where it is empty, as `lru` does.
    """
    row = situation(obs, mask) * N_DEEDS
    unknown = True
    for deed in range(N_DEEDS):
        unknown = unknown and memory[row + deed] == 0.0
    if unknown:
        return or_wait(oldest_gives_way(obs, mask))
    return action_of(best(obs, mask, memory, row), obs, mask)

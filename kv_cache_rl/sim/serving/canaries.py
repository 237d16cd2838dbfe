"""Heuristics that should not win: each does what some unsound score would reward; a sound one places it
below `lru`.
"""

import numpy as np

from kv_cache_rl.core.draws import WEYL
from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.compiled import mixed, unit
from kv_cache_rl.sim.serving.actions import ACTIONS, NOTHING, PREEMPT, PREEMPT_SWAP, REJECT
from kv_cache_rl.sim.serving.moves import admission, admit_or_evict, or_nothing

MEMORY = 16
SEED, DRAWN = MEMORY - 2, MEMORY - 1
"""Where the memory keeps what a random heuristic draws from: the seed, and how many were drawn."""


@uncounted
def draw(memory):
    """Next uniform number of this memory's own stream."""
    memory[DRAWN] += 1.0
    return unit(mixed(np.uint64(memory[SEED]) + np.uint64(memory[DRAWN]) * WEYL))


@uncounted
def random(view, mask, memory):
    """Any action that is allowed."""
    allowed = 0
    for a in range(len(ACTIONS)):
        allowed += 1 if mask[a] else 0
    left = int(draw(memory) * allowed)
    for a in range(len(ACTIONS)):
        if mask[a]:
            if left == 0:
                return a
            left -= 1
    return NOTHING


@uncounted
def do_nothing(view, mask, memory):
    """Lets every tick pass."""
    return NOTHING


@uncounted
def admit_once(view, mask, memory):
    """Admits one request, then does nothing."""
    if memory[0] == 0.0:
        action = admission(mask)
        if action >= 0:
            memory[0] = 1.0
            return action
    return NOTHING


@uncounted
def reject_all(view, mask, memory):
    """Rejects every request."""
    if mask[REJECT + 1]:
        return REJECT + 1
    return REJECT if mask[REJECT] else NOTHING


@uncounted
def shed_power_users(view, mask, memory):
    """`lru`, but a request that holds more than a share of the GPU is preempted and rejected.

    Parameters: share. Remembers the class it has preempted and not yet rejected.
    """
    if memory[1] > 0.0:
        action = REJECT + int(memory[1]) - 1
        memory[1] = 0.0
        if mask[action]:
            return action
    if view.yield_preempt_active > memory[0]:
        for vip in range(2):
            # The view does not say of which class the largest is: the classes take turns.
            which = (vip + int(memory[2])) % 2
            if mask[PREEMPT + which]:
                memory[1], memory[2] = which + 1.0, 1.0 - which
                return PREEMPT + which
    return or_nothing(admit_or_evict(view, mask))


@uncounted
def preempt_cycling(view, mask, memory):
    """Admits a request and preempts one, by turns."""
    memory[0] = 1.0 - memory[0]
    if memory[0] > 0.0:
        action = admission(mask)
        if action >= 0:
            return action
    for action in (PREEMPT_SWAP + 1, PREEMPT_SWAP, PREEMPT + 1, PREEMPT):
        if mask[action]:
            return action
    return NOTHING


@uncounted
def early_crash(view, mask, memory):
    """Admits what fits and never frees anything, until caches that are not needed fill the GPU."""
    return or_nothing(admission(mask))

"""Heuristics that nobody should use: each does what some unsound score would reward, and a sound one places
it below `lru`.
"""

import numpy as np

from kv_cache_rl.core.draws import WEYL
from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.compiled import mixed, unit
from kv_cache_rl.sim.serving.actions import ACTIONS
from kv_cache_rl.sim.serving.face import (
    LARGEST_ACTIVE,
    PREEMPT,
    PREEMPT_SWAP,
    TURN_AWAY,
    WAIT,
    admission,
    oldest_gives_way,
    or_wait,
)

MEMORY = 16
SEED, DRAWN = MEMORY - 2, MEMORY - 1
"""Where the memory keeps what a random heuristic draws from."""


@uncounted
def draw(memory):
    """Next uniform number of this memory's own stream."""
    memory[DRAWN] += 1.0
    return unit(mixed(np.uint64(memory[SEED]) + np.uint64(memory[DRAWN]) * WEYL))


@uncounted
def random(obs, mask, memory):
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
    return WAIT


@uncounted
def do_nothing(obs, mask, memory):
    """Lets every tick pass."""
    return WAIT


@uncounted
def admit_once(obs, mask, memory):
    """Admits one request, then does nothing."""
    if memory[0] == 0.0:
        action = admission(mask)
        if action >= 0:
            memory[0] = 1.0
            return action
    return WAIT


@uncounted
def reject_all(obs, mask, memory):
    """Turns everybody away."""
    if mask[TURN_AWAY + 1]:
        return TURN_AWAY + 1
    return TURN_AWAY if mask[TURN_AWAY] else WAIT


@uncounted
def shed_power_users(obs, mask, memory):
    """`lru`, but whoever turns out to hold more than a share of the GPU is preempted and turned away.

    Parameters: share. Remembers the class it has preempted and not yet turned away.
    """
    if memory[1] > 0.0:
        action = TURN_AWAY + int(memory[1]) - 1
        memory[1] = 0.0
        if mask[action]:
            return action
    if obs[LARGEST_ACTIVE] > memory[0]:
        for vip in range(2):
            # The observation does not say whose the largest is: the classes take turns.
            which = (vip + int(memory[2])) % 2
            if mask[PREEMPT + which]:
                memory[1], memory[2] = which + 1.0, 1.0 - which
                return PREEMPT + which
    return or_wait(oldest_gives_way(obs, mask))


@uncounted
def preempt_cycling(obs, mask, memory):
    """Admits, and takes whoever runs off the GPU again, by turns."""
    memory[0] = 1.0 - memory[0]
    if memory[0] > 0.0:
        action = admission(mask)
        if action >= 0:
            return action
    for action in (PREEMPT_SWAP + 1, PREEMPT_SWAP, PREEMPT + 1, PREEMPT):
        if mask[action]:
            return action
    return WAIT


@uncounted
def early_crash(obs, mask, memory):
    """Admits whoever fits and never frees anything, until caches that nobody needs fill the GPU."""
    return or_wait(admission(mask))

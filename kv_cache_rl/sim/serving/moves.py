"""Moves that heuristics have in common.

A heuristic sees `view`, a record `observe.VIEW`, and `mask`, int8 ``[18]``: which actions have a target.
"""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.serving.actions import ADMIT, EVICT_OLDEST, NOTHING


@uncounted
def admission(mask):
    """Admits the head of a queue, VIP first; -1 where neither can be admitted."""
    if mask[ADMIT + 1]:
        return ADMIT + 1
    return ADMIT if mask[ADMIT] else -1


@uncounted
def waiting(view):
    """Whether a request waits."""
    return view.free_queue_pressure > 0.0 or view.vip_queue_pressure > 0.0


@uncounted
def of_both(mask, action, free, vip):
    """`action` on the class with the larger number, or on the one that allows it; -1 where neither does."""
    if mask[action] and mask[action + 1]:
        return action + 1 if vip > free else action
    if mask[action]:
        return action
    return action + 1 if mask[action + 1] else -1


@uncounted
def on_oldest(view, mask, action):
    """`action` on the class whose cache has been idle longest, as `of_both`."""
    return of_both(mask, action, view.free_age_max, view.vip_age_max)


@uncounted
def or_nothing(action):
    """The action, or doing nothing for -1."""
    return NOTHING if action < 0 else action


@uncounted
def admit_or_evict(view, mask):
    """Admits what fits; if a request waits that does not fit, evicts the cache idle longest; -1 otherwise."""
    action = admission(mask)
    if action >= 0 or not waiting(view):
        return action
    return on_oldest(view, mask, EVICT_OLDEST)

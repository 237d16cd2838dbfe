"""The view and the actions by name, for deciders that are compiled: which number is what, and the moves they
have in common.
"""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.serving import actions as deeds
from kv_cache_rl.sim.serving.actions import NOTHING
from kv_cache_rl.sim.serving.observe import RICH

WAIT = NOTHING
LARGEST_GOES, OLDEST_GOES, LARGEST_SWAPS, OLDEST_SWAPS, ADMIT, TURN_AWAY, PREEMPT, PREEMPT_SWAP = (
    2 * deed
    for deed in (
        deeds.EVICT_LARGEST,
        deeds.EVICT_OLDEST,
        deeds.SWAP_LARGEST,
        deeds.SWAP_OLDEST,
        deeds.ADMIT,
        deeds.REJECT,
        deeds.SHRED,
        deeds.PREEMPT_SWAP,
    )
)
"""Actions on Free users; the next number is the same on VIPs."""
(
    GPU,
    CPU,
    FREE_QUEUE,
    VIP_QUEUE,
    FREE_WAIT,
    VIP_WAIT,
    LARGEST_ACTIVE,
    FREE_SIZE,
    VIP_SIZE,
    FREE_AGE,
    VIP_AGE,
    LINK,
    RHO,
) = (
    RICH.index(name)
    for name in (
        "gpu_utilization_pct",
        "cpu_utilization_pct",
        "free_queue_pressure",
        "vip_queue_pressure",
        "free_max_wait_time_pct",
        "vip_max_wait_time_pct",
        "yield_preempt_active",
        "free_size_max",
        "vip_size_max",
        "free_age_max",
        "vip_age_max",
        "link_occupancy",
        "rho",
    )
)


@uncounted
def admission(mask):
    """Admits whoever can be, VIP first; -1 where nobody can."""
    if mask[ADMIT + 1]:
        return ADMIT + 1
    return ADMIT if mask[ADMIT] else -1


@uncounted
def waiting(obs):
    """Whether anybody waits."""
    return obs[FREE_QUEUE] > 0.0 or obs[VIP_QUEUE] > 0.0


@uncounted
def of_both(obs, mask, action, free, vip):
    """`action` on the class for which the observed number is larger, or on the one that allows it; -1 where
    neither does.
    """
    if mask[action] and mask[action + 1]:
        return action + 1 if obs[vip] > obs[free] else action
    if mask[action]:
        return action
    return action + 1 if mask[action + 1] else -1


@uncounted
def or_wait(action):
    return WAIT if action < 0 else action


@uncounted
def oldest_gives_way(obs, mask):
    """Admits whoever can be; while somebody waits who cannot, evicts the cache that has been idle longest; -1
    otherwise.
    """
    action = admission(mask)
    if action >= 0 or not waiting(obs):
        return action
    return of_both(obs, mask, OLDEST_GOES, FREE_AGE, VIP_AGE)

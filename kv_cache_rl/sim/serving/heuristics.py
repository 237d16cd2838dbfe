"""Heuristics: from the 24 numbers and the mask to one of the 18 actions, each written once, compiled.

A heuristic is a function of observation float32 ``[24]``, mask int8 ``[18]`` and memory float64 ``[MEMORY]``.
The memory begins with its parameters (`HEURISTICS`), the rest is its own to remember in; those that remember
nothing decide by what they see alone. Adding one is a function here, a line in `HEURISTICS` and in
`FUNCTIONS`, and one in `choose`, which dispatches inside compiled loops. Those below are meant to serve;
`canaries` are not, `tabular` is learned."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.serving.actions import COLLECT
from kv_cache_rl.sim.serving.canaries import (
    MEMORY,
    SEED,
    admit_once,
    do_nothing,
    early_crash,
    preempt_cycling,
    random,
    reject_all,
    shed_power_users,
)
from kv_cache_rl.sim.serving.face import (
    ADMIT,
    CPU,
    FREE_AGE,
    FREE_QUEUE,
    FREE_SIZE,
    FREE_WAIT,
    GPU,
    LARGEST_GOES,
    LINK,
    OLDEST_GOES,
    OLDEST_SWAPS,
    RHO,
    TURN_AWAY,
    VIP_AGE,
    VIP_QUEUE,
    VIP_SIZE,
    VIP_WAIT,
    WAIT,
    admission,
    of_both,
    oldest_gives_way,
    or_wait,
    waiting,
)
from kv_cache_rl.sim.serving.observe import MARGIN
from kv_cache_rl.sim.serving.tabular import tabular


@uncounted
def lru(obs, mask, memory):
    """Admits whoever fits, VIP first; while somebody waits, evicts the cache that has been idle longest."""
    return or_wait(oldest_gives_way(obs, mask))


@uncounted
def size_weighted(obs, mask, memory):
    """Like `lru`, but the largest cache gives way first."""
    action = admission(mask)
    if action >= 0 or not waiting(obs):
        return or_wait(action)
    return or_wait(of_both(obs, mask, LARGEST_GOES, FREE_SIZE, VIP_SIZE))


@uncounted
def fifo(obs, mask, memory):
    """Serves whoever has waited longest (against what their class tolerates), and nobody before them; evicts
    likewise.
    """
    if not waiting(obs):
        return WAIT
    vip = obs[VIP_QUEUE] > 0.0 and (obs[FREE_QUEUE] <= 0.0 or obs[VIP_WAIT] > obs[FREE_WAIT])
    head = ADMIT + 1 if vip else ADMIT
    if mask[head]:
        return head
    return or_wait(of_both(obs, mask, OLDEST_GOES, FREE_AGE, VIP_AGE))


@uncounted
def watermark(obs, mask, memory):
    """A fixed mark: above it the oldest cache leaves, and nobody comes in; all else as `stability` does it.

    Parameters: mark, link, collect, shed.
    """
    return keep_room(obs, mask, obs[GPU] > memory[0], 1.0 - memory[0], memory[1], memory[2], memory[3])


@uncounted
def stability(obs, mask, memory):
    """The queueing controller in reserve mode: the oldest caches leave ahead of the load it expects.

        margin < `target`             -> the oldest cache leaves, though nobody waits for its room yet
        free share >= reserve         -> admit, VIP first; reserve = `base` + `per_rho` * (rho - 1), room to grow

    Parameters: target, base, per_rho, link, collect, shed.
    """
    reserve = max(memory[1] + memory[2] * (2.0 * obs[RHO] - 1.0), 0.0)
    return keep_room(obs, mask, obs[MARGIN] < memory[0], reserve, memory[3], memory[4], memory[5])


@uncounted
def keep_room(obs, mask, short, reserve, link, collect, shed):
    """Frees while `short`, admits while a share `reserve` of the GPU is free, and keeps caches and queues in
    order.

    CPU use > `collect`           -> Free caches idle for long are dropped there
    `short`, or a head has no room -> the oldest cache leaves for the CPU, or for good where the CPU is full
                                     or the link busier than `link`
    a queue is full to `shed`     -> its head, which has waited longest, is turned away so that fresh ones find a place
    """
    if obs[CPU] > collect and mask[COLLECT]:
        return COLLECT
    if short:
        action = make_room(obs, mask, link)
        if action >= 0:
            return action
    if 1.0 - obs[GPU] >= reserve:
        action = admission(mask)
        if action >= 0:
            return action
    if waiting(obs):
        action = make_room(obs, mask, link)
        if action >= 0:
            return action
    for vip in range(2):
        if obs[FREE_QUEUE + vip] >= shed and mask[TURN_AWAY + vip] and not mask[ADMIT + vip]:
            return TURN_AWAY + vip
    return WAIT


@uncounted
def make_room(obs, mask, busiest_link):
    """Takes the oldest cache off the GPU: to the CPU, or for good where that cannot be or the link is busy;
    -1 without any.
    """
    action = -1
    if obs[LINK] <= busiest_link:
        action = of_both(obs, mask, OLDEST_SWAPS, FREE_AGE, VIP_AGE)
    return action if action >= 0 else of_both(obs, mask, OLDEST_GOES, FREE_AGE, VIP_AGE)


@dataclass(frozen=True, slots=True)
class Heuristic:
    """One heuristic with the parameters it starts from."""

    function: Callable
    parameters: tuple[float, ...] = ()
    names: tuple[str, ...] = ()
    rich: bool = False
    """Whether it reads the last four of the 24 numbers."""
    canary: bool = False
    """Whether a sound score places it below `lru`."""
    remembers: bool = False
    """Whether what it does depends on more than what it sees."""

    @property
    def function_name(self) -> str:
        return self.function.__name__


HEURISTICS: dict[str, Heuristic] = {
    "random": Heuristic(random, canary=True, remembers=True),
    "fifo": Heuristic(fifo),
    "lru": Heuristic(lru),
    "size_weighted": Heuristic(size_weighted),
    "stability": Heuristic(
        stability,
        (0.0, 0.05, 0.05, 1.0, 0.95, 0.2),
        ("target", "base", "per_rho", "link", "collect", "shed"),
        rich=True,
    ),
    "watermark_80": Heuristic(watermark, (0.80, 1.0, 0.95, 0.2), ("mark", "link", "collect", "shed")),
    "watermark_90": Heuristic(watermark, (0.90, 1.0, 0.95, 0.2), ("mark", "link", "collect", "shed")),
    "watermark_95": Heuristic(watermark, (0.95, 1.0, 0.95, 0.2), ("mark", "link", "collect", "shed")),
    "do_nothing": Heuristic(do_nothing, canary=True),
    "admit_once": Heuristic(admit_once, canary=True, remembers=True),
    "reject_all": Heuristic(reject_all, canary=True),
    "shed_power_users": Heuristic(shed_power_users, (0.003,), ("share",), canary=True, remembers=True),
    "preempt_cycling": Heuristic(preempt_cycling, canary=True, remembers=True),
    "early_crash": Heuristic(early_crash, canary=True),
}
FUNCTIONS = (
    "random",
    "fifo",
    "lru",
    "size_weighted",
    "stability",
    "watermark",
    "do_nothing",
    "admit_once",
    "reject_all",
    "shed_power_users",
    "preempt_cycling",
    "early_crash",
    "tabular",
)
"""Names of the functions in the order of `choose`."""


@uncounted
def choose(which, obs, mask, memory):
    """Action of the heuristic with index `which` in `FUNCTIONS`."""
    if which == 0:
        return random(obs, mask, memory)
    if which == 1:
        return fifo(obs, mask, memory)
    if which == 2:
        return lru(obs, mask, memory)
    if which == 3:
        return size_weighted(obs, mask, memory)
    if which == 4:
        return stability(obs, mask, memory)
    if which == 5:
        return watermark(obs, mask, memory)
    if which == 6:
        return do_nothing(obs, mask, memory)
    if which == 7:
        return admit_once(obs, mask, memory)
    if which == 8:
        return reject_all(obs, mask, memory)
    if which == 9:
        return shed_power_users(obs, mask, memory)
    if which == 10:
        return preempt_cycling(obs, mask, memory)
    if which == 11:
        return early_crash(obs, mask, memory)
    return tabular(obs, mask, memory)


def new_memory(name: str, seed: int = 0) -> np.ndarray:
    """What a heuristic of `HEURISTICS` remembers before its first decision, float64 ``[MEMORY]``."""
    memory = np.zeros(MEMORY)
    memory[: len(HEURISTICS[name].parameters)] = HEURISTICS[name].parameters
    # Weyl's sequence, cut to a whole number that a float64 holds exactly.
    memory[SEED] = float((seed * 0x9E3779B97F4A7C15 + 1) % (1 << 53))
    return memory

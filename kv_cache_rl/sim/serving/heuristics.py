"""Heuristics: from the 24 numbers and the mask to one of the 18 actions, each written once, compiled.

A heuristic is a function of the view (a record `observe.VIEW`), the mask int8 ``[18]`` and its memory
float64 ``[MEMORY]``. The memory begins with its parameters, the remaining cells are its private memory;
heuristics that use none of those decide by what they see alone. Adding one is a function here and a line in
`HEURISTICS`. Those below are meant to serve; `canaries` are not, `tabular` is learned.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kv_cache_rl.core.draws import WEYL
from kv_cache_rl.jit import folded, uncounted
from kv_cache_rl.sim.serving.actions import (
    ADMIT,
    COLLECT,
    EVICT_LARGEST,
    EVICT_OLDEST,
    NOTHING,
    REJECT,
    SWAP_OLDEST,
)
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
from kv_cache_rl.sim.serving.moves import admission, admit_or_evict, of_both, on_oldest, or_nothing, waiting
from kv_cache_rl.sim.serving.network import network
from kv_cache_rl.sim.serving.observe import VIEW
from kv_cache_rl.sim.serving.tabular import tabular


@uncounted
def lru(view, mask, memory):
    """Admits what fits, VIP first; while a request waits, evicts the cache that has been idle longest."""
    return or_nothing(admit_or_evict(view, mask))


@uncounted
def size_weighted(view, mask, memory):
    """Like `lru`, but the largest cache is evicted first."""
    action = admission(mask)
    if action >= 0 or not waiting(view):
        return or_nothing(action)
    return or_nothing(of_both(mask, EVICT_LARGEST, view.free_size_max, view.vip_size_max))


@uncounted
def fifo(view, mask, memory):
    """Serves the request that has waited longest (against what its class tolerates), and none before it;
    evicts likewise.
    """
    if not waiting(view):
        return NOTHING
    vip = view.vip_queue_pressure > 0.0 and (
        view.free_queue_pressure <= 0.0 or view.vip_max_wait_time_pct > view.free_max_wait_time_pct
    )
    head = ADMIT + 1 if vip else ADMIT
    if mask[head]:
        return head
    return or_nothing(on_oldest(view, mask, EVICT_OLDEST))


@uncounted
def watermark(view, mask, memory):
    """A fixed mark: above it the oldest cache leaves and no request is admitted; the rest as in `stability`.

    Parameters: mark, link, collect, shed.
    """
    short = view.gpu_utilization_pct > memory[0]
    return keep_room(view, mask, short, 1.0 - memory[0], memory[1], memory[2], memory[3])


@uncounted
def stability(view, mask, memory):
    """The queueing controller in reserve mode: the oldest caches leave ahead of the load it expects.

        margin < `target`             -> the oldest cache leaves, though its room is not needed yet
        free share >= reserve         -> admit, VIP first; room to grow:
                                         reserve = `base` + `per_rho` * (rho - 1)

    Parameters: target, base, per_rho, link, collect, shed.
    """
    reserve = max(memory[1] + memory[2] * (2.0 * view.rho - 1.0), 0.0)
    short = view.stability_margin < memory[0]
    return keep_room(view, mask, short, reserve, memory[3], memory[4], memory[5])


@uncounted
def keep_room(view, mask, short, reserve, link, collect, shed):
    """Frees while `short`, admits while a share `reserve` of the GPU is free, keeps queues in order.

    CPU use > `collect`            -> Free caches idle for long are dropped there
    `short`, or a head has no room -> the oldest cache leaves for the CPU, or for good where the CPU is full
                                      or the link busier than `link`
    a queue is full to `shed`      -> its head, which has waited longest, is rejected: room for new requests
    """
    if view.cpu_utilization_pct > collect and mask[COLLECT]:
        return COLLECT
    if short:
        action = make_room(view, mask, link)
        if action >= 0:
            return action
    if 1.0 - view.gpu_utilization_pct >= reserve:
        action = admission(mask)
        if action >= 0:
            return action
    if waiting(view):
        action = make_room(view, mask, link)
        if action >= 0:
            return action
    if view.free_queue_pressure >= shed and mask[REJECT] and not mask[ADMIT]:
        return REJECT
    if view.vip_queue_pressure >= shed and mask[REJECT + 1] and not mask[ADMIT + 1]:
        return REJECT + 1
    return NOTHING


@uncounted
def make_room(view, mask, busiest_link):
    """Takes the oldest cache off the GPU: to the CPU, or for good where that is full or the link busy; -1
    without any.
    """
    action = -1
    if view.link_occupancy <= busiest_link:
        action = on_oldest(view, mask, SWAP_OLDEST)
    return action if action >= 0 else on_oldest(view, mask, EVICT_OLDEST)


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
    def which(self) -> int:
        """Its function's number in compiled code (`choose`)."""
        return FUNCTIONS.index(self.function)


MARK = ("mark", "link", "collect", "shed")

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
    "watermark_80": Heuristic(watermark, (0.80, 1.0, 0.95, 0.2), MARK),
    "watermark_90": Heuristic(watermark, (0.90, 1.0, 0.95, 0.2), MARK),
    "watermark_95": Heuristic(watermark, (0.95, 1.0, 0.95, 0.2), MARK),
    "do_nothing": Heuristic(do_nothing, canary=True),
    "admit_once": Heuristic(admit_once, canary=True, remembers=True),
    "reject_all": Heuristic(reject_all, canary=True),
    "shed_power_users": Heuristic(shed_power_users, (0.003,), ("share",), canary=True, remembers=True),
    "preempt_cycling": Heuristic(preempt_cycling, canary=True, remembers=True),
    "early_crash": Heuristic(early_crash, canary=True),
}

FUNCTIONS = tuple(dict.fromkeys([*(one.function for one in HEURISTICS.values()), tabular]))
"""Each function once; its place is its number in compiled code."""
TABULAR = FUNCTIONS.index(tabular)
NEURAL = len(FUNCTIONS)
"""The number of `network`, which reads the view as an array and keeps what it works with in its memory."""

_choose = folded(FUNCTIONS)


@uncounted
def choose(which, seen, mask, memory):
    """Action of function `which` for the view float32 ``[24]``."""
    if which == NEURAL:
        return network(seen, mask, memory)
    return _choose(which, seen.view(VIEW)[0], mask, memory)


def new_memory(name: str, seed: int = 0) -> np.ndarray:
    """What a heuristic of `HEURISTICS` remembers before its first decision, float64 ``[MEMORY]``."""
    memory = memory_of(HEURISTICS[name].parameters)
    # Weyl's sequence, cut to a whole number that a float64 holds exactly.
    memory[SEED] = float((seed * int(WEYL) + 1) % (1 << 53))
    return memory


def memory_of(parameters: tuple[float, ...]) -> np.ndarray:
    """A memory that holds these parameters and nothing else."""
    memory = np.zeros(MEMORY)
    memory[: len(parameters)] = parameters
    return memory

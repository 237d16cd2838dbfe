"""An episode of the serving world told tick by tick: what a log and a timeline are made of."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np

from kv_cache_rl.core import pool
from kv_cache_rl.sim.serving.actions import ACTIONS
from kv_cache_rl.sim.serving.dynamics import act, look
from kv_cache_rl.sim.serving.lists import length
from kv_cache_rl.sim.serving.observe import RICH
from kv_cache_rl.sim.serving.state import (
    ALIVE,
    ARRIVED,
    CPU_POOL,
    FINISHED,
    GPU_POOL,
    QUEUES,
    SERVICE,
    STATUS,
    TICK,
    State,
)

Decide = Callable[[np.ndarray, np.ndarray], int]
"""(what is seen float32 ``[24]``, mask int8 ``[18]``) -> one of the 18 actions."""


@dataclass(frozen=True, slots=True)
class Tick:
    """One iteration of the engine: the decisions before it, and how things stand after it."""

    tick: int
    """How many iterations have run."""
    clock_s: float
    gpu_utilization: float
    """Blocks in use over all, idle caches included."""
    cpu_utilization: float
    free_queue: int
    vip_queue: int
    active: int
    """Requests in service."""
    arrived: int
    """Requests so far; the next counts likewise."""
    completed: int
    actions: tuple[str, ...]
    """Decisions, the one that let the tick pass included; refused ones too."""
    reward: float
    """Of these decisions together."""

    def to_json(self) -> dict:
        return asdict(self)


def ticks(state: State, decide: Decide) -> Iterator[Tick]:
    """Plays `state` on to its end, in place, and tells every tick as soon as it has passed."""
    columns, book = state.columns, state.columns.book
    seen, mask = np.zeros(len(RICH), np.float32), np.zeros(len(ACTIONS), np.int8)
    look(*columns, seen, mask)
    taken, reward = [], 0.0
    while book[ALIVE, 0]:
        before, action = book[TICK, 0], int(decide(seen, mask))
        reward += act(*columns, seen, mask, action)
        taken.append(ACTIONS[action])
        # An episode that crashes ends in the middle of a tick, which is told all the same.
        if book[TICK, 0] > before or not book[ALIVE, 0]:
            yield told(state, tuple(taken), float(reward))
            taken, reward = [], 0.0


def told(state: State, actions: tuple[str, ...], reward: float) -> Tick:
    """How things stand after these decisions."""
    book, rows = state.columns.book, state.columns.rows
    pages = book[CPU_POOL, pool.CAPACITY]
    return Tick(
        tick=int(book[TICK, 0]),
        clock_s=state.seconds,
        gpu_utilization=float(book[GPU_POOL, pool.USED] / book[GPU_POOL, pool.CAPACITY]),
        cpu_utilization=float(book[CPU_POOL, pool.USED] / pages) if pages else 0.0,
        free_queue=int(length(book, QUEUES)),
        vip_queue=int(length(book, QUEUES + 1)),
        active=int(book[SERVICE, 0]),
        arrived=int(book[ARRIVED, 0]),
        completed=int(np.count_nonzero(rows[:, STATUS] == FINISHED)),
        actions=actions,
        reward=reward,
    )

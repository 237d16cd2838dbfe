"""An episode of the serving world tick by tick: what a log and a timeline are made of."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from kv_cache_rl.search.serving.rollout import Decide, steps
from kv_cache_rl.sim.serving.actions import ACTIONS
from kv_cache_rl.sim.serving.columns import FINISHED, FREE, VIP
from kv_cache_rl.sim.serving.state import State


@dataclass(frozen=True, slots=True)
class Tick:
    """One iteration of the engine: the decisions before it, and the server after it."""

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
    """Plays `state` on to its end, in place, and gives every tick as soon as it has passed."""
    book = state.columns.book
    before, taken, reward = int(book["ticks"]), [], 0.0
    for action, earned in steps(state, decide):
        taken.append(ACTIONS[action])
        reward += earned
        # An episode that crashes ends in the middle of a tick, which is recorded all the same.
        if book["ticks"] > before or state.done:
            yield tick_of(state, tuple(taken), float(reward))
            before, taken, reward = int(book["ticks"]), [], 0.0


def tick_of(state: State, actions: tuple[str, ...], reward: float) -> Tick:
    """The server as it stands after these decisions."""
    book, queues = state.columns.book, state.columns.book["queues"]
    (gpu, gpu_used), (cpu, cpu_used) = book["pools"].tolist()
    return Tick(
        tick=int(book["ticks"]),
        clock_s=state.seconds,
        gpu_utilization=gpu_used / gpu,
        cpu_utilization=cpu_used / cpu if cpu else 0.0,
        free_queue=int(queues[FREE]["count"]),
        vip_queue=int(queues[VIP]["count"]),
        active=int(book["serving"]),
        arrived=int(book["arrived"]),
        completed=int(np.count_nonzero(state.columns.rows["status"] == FINISHED)),
        actions=actions,
        reward=reward,
    )

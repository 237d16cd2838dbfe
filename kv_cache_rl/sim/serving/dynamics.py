"""The server's loop: decisions, then an iteration of the engine, then the requests that arrived meanwhile."""

import numpy as np

from kv_cache_rl.core import pool
from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.serving.actions import ACTIONS, NOTHING, perform, target
from kv_cache_rl.sim.serving.admission import fits
from kv_cache_rl.sim.serving.columns import (
    BEFORE,
    DROPPED,
    GPU_POOL,
    N_TERMS,
    NOW,
    QUEUED,
    Crash,
    columns_of,
    live_size,
)
from kv_cache_rl.sim.serving.demand import Traffic
from kv_cache_rl.sim.serving.engine import compute, idle_time, settle
from kv_cache_rl.sim.serving.generate import traffic
from kv_cache_rl.sim.serving.link import transfer
from kv_cache_rl.sim.serving.lists import push
from kv_cache_rl.sim.serving.observe import write_view
from kv_cache_rl.sim.serving.score import PRESSURE, WEIGHTS
from kv_cache_rl.sim.serving.spec import Scenario
from kv_cache_rl.sim.serving.state import State, fixed_of
from kv_cache_rl.theory.flow import arrive, new_flow

"""Of `columns.CRASHES`."""
COLLAPSE_TICKS = 50
SCARCE = 100
"""The GPU counts as full while less than one block in so many is free."""


def new_state(scenario: Scenario, seed: int = 0, load: Traffic | None = None) -> State:
    """The empty server at second 0, before its first decision.

    Args:
        load: replaces the scenario's own traffic.

    Raises:
        ServingError: the seed or the traffic cannot be used.
        TraceError: the scenario names a trace that cannot be used.
    """
    load = traffic(scenario, seed) if load is None else load
    live = np.zeros(live_size(len(load.table)), np.int64)
    state = State(scenario, seed, load, fixed_of(scenario, load), live)
    book, rows = state.columns.book, state.columns.rows
    book["pools"][:, pool.CAPACITY] = scenario.gpu_blocks, scenario.cpu_blocks
    book["end_us"], book["alive"] = scenario.ticks * load.tick_us, 1
    for group in ("queues", "idle", "stored", "lanes"):
        book[group]["first"], book[group]["last"] = -1, -1
    book["largest"]["idle"], book["largest"]["active"] = -1, -1
    book["flow"][:] = declared_flow(scenario, load)
    for name in ("found", "before", "after", "next"):
        rows[name] = -1
    start(*state.buffers)
    return state


def declared_flow(scenario: Scenario, load: Traffic) -> np.ndarray:
    """The rate estimates before the first arrival: what the traffic declares, at the nominal tick."""
    lengths = load.lengths
    iterations = lengths.output + max(lengths.prompt / scenario.token_budget, 1.0)
    return new_flow(
        scenario.control_window_s,
        arrival_rate=load.arrival_rate,
        service_s=iterations * load.tick_us / 1e6,
        blocks=(lengths.prompt + lengths.output) / scenario.block_tokens,
    )


@uncounted
def queue_arrivals(c):
    """Queues the requests that have arrived, or drops them if their queue is full."""
    row, now = c.book.arrived, c.book.clock_us
    while row < c.settings.requests and c.requests[row].arrival <= now:
        q, r = c.requests[row], c.rows[row]
        queue = c.book.queues[q.vip]
        arrive(c.book.flow, q.arrival / 1e6)
        if queue.count >= c.settings.classes[q.vip].queue:
            r.status = DROPPED
            c.terms.dropped += 1
        else:
            r.status, r.since = QUEUED, q.arrival
            push(c, queue, row)
        row += 1
    c.book.arrived = row


@uncounted
def start(fixed, live):
    """Queues the requests that arrive at second 0."""
    queue_arrivals(columns_of(fixed, live))


@uncounted
def head_waits_for_room(c):
    """Whether the head of a queue does not fit."""
    for vip in range(2):
        head = c.book.queues[vip].first
        if head >= 0 and not fits(c, head):
            return True
    return False


@uncounted
def tick(c):
    """One iteration of the engine, and what happens while it lasts."""
    pressed = head_waits_for_room(c)
    micros = compute(c)
    if not c.book.alive:
        return
    if micros == 0:
        micros = idle_time(c)
    c.book.last_tick_us = micros
    c.book.clock_us += micros
    if pressed:
        c.terms.memory_pressure += micros
    transfer(c, micros)
    settle(c, micros)
    queue_arrivals(c)
    c.book.ticks += 1
    c.book.decisions = 0
    for k in range(5):
        c.book.past[k] = c.book.past[k + 1]
    c.book.past[5] = c.book.pools[GPU_POOL, pool.USED]
    check_end(c)


@uncounted
def check_end(c):
    """Ends the episode when its time is over, or when queues and memory have been full for too long."""
    capacity = c.book.pools[GPU_POOL, pool.CAPACITY]
    full = (capacity - c.book.pools[GPU_POOL, pool.USED]) * SCARCE < capacity
    for vip in range(2):
        full = full and c.book.queues[vip].count >= c.settings.classes[vip].queue
    c.book.full_ticks = c.book.full_ticks + 1 if full else 0
    if c.book.full_ticks >= COLLAPSE_TICKS:
        c.book.alive, c.book.crash = 0, Crash.COLLAPSE
    if c.book.clock_us >= c.book.end_us:
        c.book.alive = 0


@uncounted
def decide(c, action):
    """Takes one decision, and lets the tick pass if it was the last; its reward.

    A refused decision only uses up its turn.
    """
    if not c.book.alive:
        return 0.0
    units = c.book.units
    for term in range(N_TERMS):
        units[BEFORE, term] = units[NOW, term]
    if 0 <= action < len(ACTIONS):
        row = target(c, action)
        if row >= 0 and action != NOTHING:
            perform(c, action, row)
    c.book.decisions += 1
    if action == NOTHING or c.book.decisions >= c.settings.actions_per_tick:
        tick(c)
    reward = 0.0
    for term in range(N_TERMS):
        unit = c.settings.tick_us if term == PRESSURE else 1
        reward += WEIGHTS[term] * (units[NOW, term] - units[BEFORE, term]) / unit
    return reward


@uncounted
def step(c, seen, mask, action):
    """`decide`, then `write_view`; the reward."""
    reward = decide(c, action)
    write_view(c, seen, mask)
    return reward


@uncounted
def act(fixed, live, seen, mask, action):
    """`step` of a packed server."""
    return step(columns_of(fixed, live), seen, mask, action)

"""The server's loop: decisions, then an iteration of the engine, then whoever came meanwhile."""

from kv_cache_rl.core import pool
from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.serving.actions import ACTIONS, NOTHING, perform, target
from kv_cache_rl.sim.serving.admission import fits
from kv_cache_rl.sim.serving.engine import compute, idle_time, settle
from kv_cache_rl.sim.serving.link import carry
from kv_cache_rl.sim.serving.lists import length, push
from kv_cache_rl.sim.serving.observe import look
from kv_cache_rl.sim.serving.score import WEIGHTS
from kv_cache_rl.sim.serving.state import ACTIONS as ACTIONS_PER_TICK
from kv_cache_rl.sim.serving.state import (
    ALIVE,
    ARRIVAL,
    ARRIVED,
    CAP_FREE,
    CLOCK,
    DROPPED,
    GPU_POOL,
    LASTED,
    LOST,
    N_TERMS,
    NOMINAL,
    PAST,
    PRESSED,
    QUEUED,
    QUEUES,
    SINCE,
    STATUS,
    STREAK,
    TERMS,
    TICK,
    VIP,
)
from kv_cache_rl.theory.flow import arrive

COLLAPSED = 2
COLLAPSE_TICKS = 50
SCARCE = 100
"""The GPU counts as full while less than one block in so many is free."""


@uncounted
def open_doors(traffic, settings, book, rows, running, flow):
    """Lets in who has arrived by now: into his queue, or away if that is full."""
    row, now = book[ARRIVED, 0], book[CLOCK, 0]
    while row < traffic.shape[0] and traffic[row, ARRIVAL] <= now:
        vip = traffic[row, VIP]
        arrive(flow, traffic[row, ARRIVAL] / 1e6)
        if length(book, QUEUES + vip) >= settings[CAP_FREE + vip]:
            rows[row, STATUS] = DROPPED
            book[TERMS + LOST, 0] += 1
        else:
            rows[row, STATUS], rows[row, SINCE] = QUEUED, traffic[row, ARRIVAL]
            push(book, rows, QUEUES + vip, row)
        row += 1
    book[ARRIVED, 0] = row


@uncounted
def somebody_waits_for_room(traffic, settings, book, rows, running):
    """Whether the head of a queue does not fit."""
    for vip in range(2):
        head = book[QUEUES + vip, 0]
        if head >= 0 and not fits(traffic, settings, book, rows, running, head):
            return True
    return False


@uncounted
def tick(traffic, settings, book, rows, running, flow):
    """One iteration of the engine, and what happens while it lasts."""
    pressed = somebody_waits_for_room(traffic, settings, book, rows, running)
    micros = compute(traffic, settings, book, rows, running)
    if not book[ALIVE, 0]:
        return
    if micros == 0:
        micros = idle_time(settings, book)
    book[LASTED, 0] = micros
    book[CLOCK, 0] += micros
    if pressed:
        book[TERMS + PRESSED, 0] += micros
    carry(traffic, settings, book, rows, micros)
    settle(traffic, settings, book, rows, running, flow, micros)
    open_doors(traffic, settings, book, rows, running, flow)
    book[TICK, 0] += 1
    book[TICK, 1] = 0
    for k in range(5):
        book[PAST + k // 2, k % 2] = book[PAST + (k + 1) // 2, (k + 1) % 2]
    book[PAST + 2, 1] = book[GPU_POOL, pool.USED]
    judge(settings, book)


@uncounted
def judge(settings, book):
    """Ends the episode when its time is over, or when queues and memory have been full for too long."""
    capacity = book[GPU_POOL, pool.CAPACITY]
    full = (capacity - book[GPU_POOL, pool.USED]) * SCARCE < capacity
    for vip in range(2):
        full = full and length(book, QUEUES + vip) >= settings[CAP_FREE + vip]
    book[STREAK, 0] = book[STREAK, 0] + 1 if full else 0
    if book[STREAK, 0] >= COLLAPSE_TICKS:
        book[ALIVE, 0], book[ARRIVED, 1] = 0, COLLAPSED
    if book[CLOCK, 0] >= book[CLOCK, 1]:
        book[ALIVE, 0] = 0


@uncounted
def decide(traffic, settings, book, rows, running, flow, action):
    """Takes one decision, and lets the tick pass if it was the last; its reward.

    Refused decisions only use up their turn.
    """
    if not book[ALIVE, 0]:
        return 0.0
    for term in range(N_TERMS):
        book[TERMS + term, 1] = book[TERMS + term, 0]
    if 0 <= action < len(ACTIONS):
        row = target(traffic, settings, book, rows, running, action)
        if row >= 0 and action != NOTHING:
            perform(traffic, settings, book, rows, running, action, row)
    book[TICK, 1] += 1
    if action == NOTHING or book[TICK, 1] >= settings[ACTIONS_PER_TICK]:
        tick(traffic, settings, book, rows, running, flow)
    reward = 0.0
    for term in range(N_TERMS):
        unit = settings[NOMINAL] if term == PRESSED else 1
        reward += WEIGHTS[term] * (book[TERMS + term, 0] - book[TERMS + term, 1]) / unit
    return reward


@uncounted
def act(traffic, settings, book, rows, running, flow, seen, mask, action):
    """`decide`, then `look`; the reward."""
    reward = decide(traffic, settings, book, rows, running, flow, action)
    look(traffic, settings, book, rows, running, flow, seen, mask)
    return reward

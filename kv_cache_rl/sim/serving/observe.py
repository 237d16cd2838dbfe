"""What a decider sees: 24 numbers and a mask. Source of the first 20: NeuralPagedAttention's observation."""

import math

import numpy as np

from kv_cache_rl.core import pool
from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.serving.actions import ACTIONS, largest_active, target
from kv_cache_rl.sim.serving.columns import CPU_POOL, FREE, GPU_POOL, OUT, VIP, columns_of, record
from kv_cache_rl.sim.serving.state import SHOWN_WAIT
from kv_cache_rl.theory.flow import arrival_rate, blocks_to_keep_free, utilisation

NUMBER = np.float32

VIEW = record(
    ("gpu_utilization_pct", NUMBER),  # blocks in use over all; idle caches are in use
    ("cpu_utilization_pct", NUMBER),
    ("memory_pressure_trend", NUMBER),  # change of the GPU's utilisation over the last five ticks
    ("free_queue_pressure", NUMBER),  # length over capacity
    ("vip_queue_pressure", NUMBER),
    ("free_max_wait_time_pct", NUMBER),  # longest wait over the SLA (over 500 ticks without one)
    ("vip_max_wait_time_pct", NUMBER),
    ("yield_preempt_active", NUMBER),  # blocks of the largest active request over capacity
    ("free_size_max", NUMBER),  # sizes: blocks of an idle cache on the GPU over capacity
    ("free_size_mean", NUMBER),
    ("free_size_std_dev", NUMBER),
    ("vip_size_max", NUMBER),
    ("vip_size_mean", NUMBER),
    ("vip_size_std_dev", NUMBER),
    ("free_age_max", NUMBER),  # ages: time since a cache on the GPU became idle, over 500 ticks
    ("free_age_mean", NUMBER),
    ("free_age_std_dev", NUMBER),
    ("vip_age_max", NUMBER),
    ("vip_age_mean", NUMBER),
    ("vip_age_std_dev", NUMBER),
    ("link_occupancy", NUMBER),  # share of the last tick in which a lane was busy
    ("forecast_arrival_rate", NUMBER),  # arrivals per second over twice what the server can serve
    ("rho", NUMBER),  # half of the controller's estimate
    ("stability_margin", NUMBER),  # blocks free beyond what the controller would keep free, over capacity
)
"""All lie in [0, 1], those in `SIGNED` in [-1, 1]. The controller: `theory.controller`, reserve mode."""
RICH = VIEW.names or ()
"""Names of all 24 numbers."""
OBSERVATION = RICH[:20]
SIGNED = ("memory_pressure_trend", "stability_margin")


def new_view() -> tuple[np.ndarray, np.ndarray]:
    """What `look` writes into: the view, float32 ``[24]``, and the mask, int8 ``[18]``."""
    return np.zeros(len(RICH), np.float32), np.zeros(len(ACTIONS), np.int8)


@uncounted
def share(value):
    """`value` within [0, 1]."""
    return min(max(value, 0.0), 1.0)


@uncounted
def signed_share(value):
    """`value` within [-1, 1]."""
    return min(max(value, -1.0), 1.0)


@uncounted
def longest_wait(c, vip):
    """Longest wait in a queue in microseconds; behind preempted rows they stand in order of arrival."""
    row, longest = c.book.queues[vip].first, 0
    while row >= 0:
        r = c.rows[row]
        longest = max(longest, c.book.clock_us - r.since)
        if r.found < 0:
            break
        row = r.after
    return longest


@uncounted
def blocks_leaving(c):
    """GPU blocks whose contents are on their way to the CPU."""
    row, blocks = c.book.lanes[OUT].first, 0
    while row >= 0:
        blocks += c.rows[row].blocks
        row = c.rows[row].next
    return blocks


@uncounted
def idle_caches(c, vip):
    """Of a class's idle caches on the GPU: their blocks together; the largest, mean and standard deviation
    of sizes, then of ages.
    """
    row, n = c.book.idle[vip].first, max(c.book.idle[vip].count, 1)
    largest, total, squares, ages, squared_ages = 0, 0, 0, 0.0, 0.0
    capacity, now = c.book.pools[GPU_POOL, pool.CAPACITY], c.book.clock_us
    horizon = SHOWN_WAIT * float(c.settings.tick_us)
    oldest = 0.0 if row < 0 else (now - c.rows[row].since) / horizon
    while row >= 0:
        r = c.rows[row]
        blocks, idle = r.blocks, (now - r.since) / horizon
        largest = max(largest, blocks)
        total += blocks
        squares += blocks * blocks
        ages += idle
        squared_ages += idle * idle
        row = r.after
    mean, mean_age = total / n, ages / n
    return (
        total,
        share(largest / capacity),
        share(mean / capacity),
        share(math.sqrt(max(squares / n - mean * mean, 0.0)) / capacity),
        share(oldest),
        share(mean_age),
        share(math.sqrt(max(squared_ages / n - mean_age * mean_age, 0.0))),
    )


@uncounted
def queue_pressure(c, vip):
    """Length of a queue over its capacity."""
    return share(c.book.queues[vip].count / c.settings.classes[vip].queue)


@uncounted
def write_view(c, seen, mask):
    """Writes the view, float32 ``[24]``, and which actions have a target, int8 ``[18]``."""
    for action in range(len(ACTIONS)):
        mask[action] = target(c, action) >= 0
    v, b = seen.view(VIEW)[0], c.book
    capacity, used = b.pools[GPU_POOL, pool.CAPACITY], b.pools[GPU_POOL, pool.USED]
    cpu_capacity = b.pools[CPU_POOL, pool.CAPACITY]
    v.gpu_utilization_pct = used / capacity
    v.cpu_utilization_pct = b.pools[CPU_POOL, pool.USED] / cpu_capacity if cpu_capacity > 0 else 0.0
    v.memory_pressure_trend = signed_share((b.past[5] - b.past[0]) / capacity)
    v.free_queue_pressure, v.vip_queue_pressure = queue_pressure(c, FREE), queue_pressure(c, VIP)
    v.free_max_wait_time_pct = share(longest_wait(c, FREE) / c.settings.classes[FREE].shown_wait_us)
    v.vip_max_wait_time_pct = share(longest_wait(c, VIP) / c.settings.classes[VIP].shown_wait_us)
    biggest = 0
    for vip in range(2):
        row = largest_active(c, vip)
        biggest = max(biggest, c.rows[row].blocks if row >= 0 else 0)
    v.yield_preempt_active = biggest / capacity
    idle, size, mean, deviation, age, mean_age, age_deviation = idle_caches(c, FREE)
    v.free_size_max, v.free_size_mean, v.free_size_std_dev = size, mean, deviation
    v.free_age_max, v.free_age_mean, v.free_age_std_dev = age, mean_age, age_deviation
    idle_vip, size, mean, deviation, age, mean_age, age_deviation = idle_caches(c, VIP)
    v.vip_size_max, v.vip_size_mean, v.vip_size_std_dev = size, mean, deviation
    v.vip_age_max, v.vip_age_mean, v.vip_age_std_dev = age, mean_age, age_deviation
    now = b.clock_us / 1e6
    v.link_occupancy = share(b.lane_busy_us / max(b.last_tick_us, 1))
    v.forecast_arrival_rate = share(0.5 * arrival_rate(b.flow, now) * 1e9 / max(c.settings.service_rate, 1))
    v.rho = share(0.5 * utilisation(b.flow, now, capacity))
    keep = blocks_to_keep_free(b.flow, now, capacity, used - idle - idle_vip - blocks_leaving(c))
    v.stability_margin = signed_share((capacity - used - keep) / capacity)


@uncounted
def look(fixed, live, seen, mask):
    """`write_view` of a packed server."""
    write_view(columns_of(fixed, live), seen, mask)

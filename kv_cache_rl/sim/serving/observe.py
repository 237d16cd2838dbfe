"""What a decider sees: 24 numbers and a mask. Source of the first 20: NeuralPagedAttention's observation."""

import math

from kv_cache_rl.core import pool
from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.serving.actions import ACTIONS, largest_active, target
from kv_cache_rl.sim.serving.link import OUT
from kv_cache_rl.sim.serving.lists import length
from kv_cache_rl.sim.serving.state import (
    AFTER,
    ALIVE,
    BLOCKS,
    CAP_FREE,
    CLOCK,
    CPU_POOL,
    FOUND,
    GPU_POOL,
    IDLE,
    LANES,
    LASTED,
    NEXT,
    NOMINAL,
    PAST,
    QUEUES,
    SERVICE_RATE,
    SHOWN_WAIT,
    SINCE,
    WAIT_FREE,
)
from kv_cache_rl.theory.flow import arrival_rate, blocks_to_keep_free, utilisation

OBSERVATION = (
    "gpu_utilization_pct",
    "cpu_utilization_pct",
    "memory_pressure_trend",
    "free_queue_pressure",
    "vip_queue_pressure",
    "free_max_wait_time_pct",
    "vip_max_wait_time_pct",
    "yield_preempt_active",
    "free_size_max",
    "free_size_mean",
    "free_size_std_dev",
    "vip_size_max",
    "vip_size_mean",
    "vip_size_std_dev",
    "free_age_max",
    "free_age_mean",
    "free_age_std_dev",
    "vip_age_max",
    "vip_age_mean",
    "vip_age_std_dev",
)
RICH = (*OBSERVATION, "link_occupancy", "forecast_arrival_rate", "rho", "stability_margin")
"""All lie in [0, 1] but the trend and the margin, in [-1, 1]. Utilisation: blocks in use over all; idle
caches are in use · trend: change of the GPU's over the last five ticks · queue pressure: length over cap ·
wait: the longest over the SLA (over 500 ticks without one) · yield: largest active request over capacity ·
size: of idle caches on the GPU over capacity; age: since they became idle, over 500 ticks · link: share of
the last tick in which a lane was busy · forecast: arrivals per second over twice what the server can serve ·
rho: half of the controller's estimate · margin: blocks free beyond what the controller (reserve mode) would
keep free, over capacity."""
TREND, MARGIN = 2, 23


@uncounted
def share(value):
    """`value` within [0, 1]."""
    return min(max(value, 0.0), 1.0)


@uncounted
def longest_wait(book, rows, vip):
    """Microseconds the longest waiting of a queue has waited.

    Behind preempted rows they stand in order of arrival.
    """
    row, longest = book[QUEUES + vip, 0], 0
    while row >= 0:
        longest = max(longest, book[CLOCK, 0] - rows[row, SINCE])
        if rows[row, FOUND] < 0:
            break
        row = rows[row, AFTER]
    return longest


@uncounted
def blocks_leaving(book, rows):
    """GPU blocks whose contents are on their way to the CPU."""
    row, blocks = book[LANES + OUT, 0], 0
    while row >= 0:
        blocks += rows[row, BLOCKS]
        row = rows[row, NEXT]
    return blocks


@uncounted
def sizes_and_ages(settings, book, rows, seen, vip):
    """Writes largest, mean and standard deviation of sizes and ages of a class's idle caches; their blocks
    together.
    """
    count, row = length(book, IDLE + vip), book[IDLE + vip, 0]
    size, age = 8 + 3 * vip, 14 + 3 * vip
    largest, total, squares, ages, squared_ages = 0, 0, 0, 0.0, 0.0
    capacity, now = book[GPU_POOL, pool.CAPACITY], book[CLOCK, 0]
    horizon = SHOWN_WAIT * float(settings[NOMINAL])
    oldest = 0.0 if row < 0 else (now - rows[row, SINCE]) / horizon
    while row >= 0:
        blocks, idle = rows[row, BLOCKS], (now - rows[row, SINCE]) / horizon
        largest = max(largest, blocks)
        total += blocks
        squares += blocks * blocks
        ages += idle
        squared_ages += idle * idle
        row = rows[row, AFTER]
    n = max(count, 1)
    mean, mean_age = total / n, ages / n
    seen[size], seen[size + 1] = share(largest / capacity), share(mean / capacity)
    seen[size + 2] = share(math.sqrt(max(squares / n - mean * mean, 0.0)) / capacity)
    seen[age], seen[age + 1] = share(oldest), share(mean_age)
    seen[age + 2] = share(math.sqrt(max(squared_ages / n - mean_age * mean_age, 0.0)))
    return total


@uncounted
def look(traffic, settings, book, rows, running, flow, seen, mask):
    """Writes the view, float32 ``[24]``, and which actions have a target, int8 ``[18]``."""
    for action in range(len(ACTIONS)):
        mask[action] = target(traffic, settings, book, rows, running, action) >= 0
    capacity, used = book[GPU_POOL, pool.CAPACITY], book[GPU_POOL, pool.USED]
    pages = book[CPU_POOL, pool.CAPACITY]
    seen[0] = used / capacity
    seen[1] = book[CPU_POOL, pool.USED] / pages if pages > 0 else 0.0
    seen[TREND] = min(max((book[PAST + 2, 1] - book[PAST, 0]) / capacity, -1.0), 1.0)
    idle, biggest = 0, 0
    for vip in range(2):
        seen[3 + vip] = share(length(book, QUEUES + vip) / settings[CAP_FREE + vip])
        seen[5 + vip] = share(longest_wait(book, rows, vip) / settings[WAIT_FREE + vip])
        idle += sizes_and_ages(settings, book, rows, seen, vip)
        row = largest_active(traffic, book, rows, running, vip)
        biggest = max(biggest, rows[row, BLOCKS] if row >= 0 else 0)
    seen[7] = biggest / capacity
    now = book[CLOCK, 0] / 1e6
    seen[20] = share(book[ALIVE, 1] / max(book[LASTED, 0], 1))
    seen[21] = share(0.5 * arrival_rate(flow, now) * 1e9 / max(settings[SERVICE_RATE], 1))
    seen[22] = share(0.5 * utilisation(flow, now, capacity))
    keep = blocks_to_keep_free(flow, now, capacity, used - idle - blocks_leaving(book, rows))
    seen[MARGIN] = min(max((capacity - used - keep) / capacity, -1.0), 1.0)

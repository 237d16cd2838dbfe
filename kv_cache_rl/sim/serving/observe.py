"""What a decider sees: 24 numbers and a mask. Source of the first 20: NeuralPagedAttention's observation."""

import math

import numpy as np

from kv_cache_rl.core import pool
from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.serving.actions import ACTIONS, largest_active, write_mask
from kv_cache_rl.sim.serving.columns import CPU_POOL, FREE, GPU_POOL, OUT, VIP, columns_of
from kv_cache_rl.sim.serving.idle import largest_idle
from kv_cache_rl.sim.serving.state import SHOWN_WAIT
from kv_cache_rl.sim.views import record
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

ROUNDING = 2.0**-53
"""Largest relative error of one operation in float64."""
MOST_SQUARED = 2.0**62
"""A sum of squares below this is what its int64, modulo 2^64, says."""


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
def sizes(c, vip):
    """Largest, mean and standard deviation of the sizes of a class's idle caches on the GPU."""
    row, n, sums = largest_idle(c, vip), c.book.idle[vip].count, c.book.idle_sums[vip]
    if row < 0:
        return 0.0, 0.0, 0.0
    capacity, mean = c.book.pools[GPU_POOL, pool.CAPACITY], sums.blocks / n
    variance = sums.blocks_squared / n - mean * mean
    return (
        share(c.rows[row].blocks / capacity),
        share(mean / capacity),
        share(math.sqrt(max(variance, 0.0)) / capacity),
    )


@uncounted
def ages(c, vip):
    """Largest, mean and standard deviation of the ages of a class's idle caches on the GPU, as `ages_walked`.

    From the running sums, whole numbers. Their float64 and that of a walk differ by rounding alone, by less
    than `slack` of the mean square. Where that cannot change the float32 that is shown, no walk is needed:
    all but one in a million times.
    """
    n, sums, now = c.book.idle[vip].count, c.book.idle_sums[vip], c.book.clock_us
    horizon = SHOWN_WAIT * float(c.settings.tick_us)
    if n == 0:
        return 0.0, 0.0, 0.0
    oldest = (now - c.rows[c.book.idle[vip].first].since) / horizon
    if n == 1:
        return share(oldest), share(oldest), 0.0
    if n * oldest * oldest * horizon * horizon > MOST_SQUARED:
        return ages_walked(c, vip)
    slack = (4 * n + 32) * ROUNDING
    mean = (n * now - sums.since) / n / horizon
    squared = n * now * now - 2 * now * sums.since + sums.since_squared
    mean_square = squared / n / (horizon * horizon)
    variance, error = mean_square - mean * mean, mean_square * slack
    low, high = math.sqrt(max(variance - error, 0.0)), math.sqrt(variance + error)
    if shown(mean - mean * slack) != shown(mean + mean * slack) or shown(low) != shown(high):
        return ages_walked(c, vip)
    return share(oldest), share(mean), share(high)


@uncounted
def shown(value):
    """A number from 0 as the view holds it."""
    return np.float32(min(value, 1.0))


@uncounted
def ages_walked(c, vip):
    """`ages` as they are defined: sums over the caches, oldest first."""
    row, n = c.book.idle[vip].first, c.book.idle[vip].count
    now, horizon = c.book.clock_us, SHOWN_WAIT * float(c.settings.tick_us)
    total, squared, oldest = 0.0, 0.0, (now - c.rows[row].since) / horizon
    while row >= 0:
        age = (now - c.rows[row].since) / horizon
        total += age
        squared += age * age
        row = c.rows[row].after
    mean = total / n
    return share(oldest), share(mean), share(math.sqrt(max(squared / n - mean * mean, 0.0)))


@uncounted
def queue_pressure(c, vip):
    """Length of a queue over its capacity."""
    return share(c.book.queues[vip].count / c.settings.classes[vip].queue)


@uncounted
def write_view(c, seen, mask):
    """Writes the view, float32 ``[24]``, and which actions have a target, int8 ``[18]``."""
    write_mask(c, mask)
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
    v.free_size_max, v.free_size_mean, v.free_size_std_dev = sizes(c, FREE)
    v.vip_size_max, v.vip_size_mean, v.vip_size_std_dev = sizes(c, VIP)
    v.free_age_max, v.free_age_mean, v.free_age_std_dev = ages(c, FREE)
    v.vip_age_max, v.vip_age_mean, v.vip_age_std_dev = ages(c, VIP)
    now = b.clock_us / 1e6
    v.link_occupancy = share(b.lane_busy_us / max(b.last_tick_us, 1))
    v.forecast_arrival_rate = share(0.5 * arrival_rate(b.flow, now) * 1e9 / max(c.settings.service_rate, 1))
    v.rho = share(0.5 * utilisation(b.flow, now, capacity))
    in_service = used - b.idle_sums[FREE].blocks - b.idle_sums[VIP].blocks - b.lanes[OUT].blocks
    keep = blocks_to_keep_free(b.flow, now, capacity, in_service)
    v.stability_margin = signed_share((capacity - used - keep) / capacity)


@uncounted
def look(fixed, live, seen, mask):
    """`write_view` of a packed server."""
    write_view(columns_of(fixed, live), seen, mask)

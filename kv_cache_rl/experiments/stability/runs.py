"""A server that admits whoever fits, looked at in equal intervals: the compiled loop behind every
measurement.
"""

from dataclasses import dataclass

import numpy as np

from kv_cache_rl.core import pool
from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.compiled import blocks_for
from kv_cache_rl.sim.serving.actions import ADMIT, EVICT_OLDEST, NOTHING
from kv_cache_rl.sim.serving.demand import Traffic
from kv_cache_rl.sim.serving.dynamics import decide
from kv_cache_rl.sim.serving.lists import length
from kv_cache_rl.sim.serving.spec import Scenario
from kv_cache_rl.sim.serving.state import (
    AFTER,
    ALIVE,
    ARRIVED,
    BLOCK_TOKENS,
    BLOCKS,
    CLOCK,
    FORCED,
    FOUND,
    GPU_POOL,
    HISTORY,
    IDLE,
    LASTED,
    OUTPUT,
    PROMPT,
    QUEUES,
    SERVICE,
    TERMS,
    TICK,
    new_state,
)

AT, WAITING, BLOCKS_HELD, BLOCKS_IDLE = range(4)
"""First columns of a sample: clock in microseconds · queue · blocks held by requests in service · by idle
caches.
"""
TICKS, BUSY_US, BLOCK_TICKS, COME, ADMITTED, PREEMPTED, SOUGHT, HIT = range(4, 12)
"""Totals since the start: iterations that computed · their microseconds · blocks held, summed over them ·
arrivals · first admissions · forced preemptions · history tokens that the admitted brought · of them found in
a cache."""
SAMPLE = 12

RESERVE, OPTIMISTIC, FOOTPRINT = "reserve", "optimistic", "footprint"
"""Admit what can finish without a preemption (projected use) · what fits now · what leaves room for all final
footprints.
"""
ADMISSIONS = (RESERVE, OPTIMISTIC, FOOTPRINT)
WARM_UP = 0.25
"""Share of a run that is not measured."""
SAMPLES = 96


@uncounted
def footprints_fit(traffic, settings, book, running):
    """Whether the final footprints of all in service, and of the queue's head, fit into memory together."""
    head, size = book[QUEUES, 0], settings[BLOCK_TOKENS]
    final = blocks_for(traffic[head, PROMPT] + traffic[head, OUTPUT], size)
    for i in range(book[SERVICE, 0]):
        final += blocks_for(traffic[running[0, i], PROMPT] + traffic[running[0, i], OUTPUT], size)
    return final <= book[GPU_POOL, pool.CAPACITY]


@uncounted
def admit_all(traffic, settings, book, rows, running, flow, literal, total):
    """Admits the head of the Free queue until it does not fit; idle caches make room for it, the oldest
    first.
    """
    tick = book[TICK, 0]
    # The last decision of an iteration lets it pass: whoever is left comes in the next.
    while book[QUEUES, 0] >= 0 and book[TICK, 0] == tick:
        if literal and not footprints_fit(traffic, settings, book, running):
            break
        head, waiting = book[QUEUES, 0], length(book, QUEUES)
        new = rows[head, FOUND] < 0
        decide(traffic, settings, book, rows, running, flow, 2 * ADMIT)
        if length(book, QUEUES) < waiting or book[TICK, 0] > tick:
            if new and rows[head, FOUND] >= 0:
                total[ADMITTED] += 1
                total[SOUGHT] += traffic[head, HISTORY]
                total[HIT] += rows[head, FOUND]
        elif book[IDLE, 0] >= 0:
            decide(traffic, settings, book, rows, running, flow, 2 * EVICT_OLDEST)
        else:
            break


@uncounted
def blocks_idle(book, rows):
    """Blocks of idle caches; all others in use are of requests in service."""
    row, total = book[IDLE, 0], 0
    while row >= 0:
        total += rows[row, BLOCKS]
        row = rows[row, AFTER]
    return total


@uncounted
def serve(traffic, settings, book, rows, running, flow, literal, until, every, samples, total, durations):
    """Serves until `until` (µs) and writes a sample ``[SAMPLE]`` every `every` µs; how many samples and
    durations there are.

    `durations` takes the microseconds of iterations that computed, as far as it goes.
    """
    taken, noted, next_at = 0, 0, every
    while book[ALIVE, 0] and book[CLOCK, 0] < until and taken < samples.shape[0]:
        before = book[TICK, 0]
        admit_all(traffic, settings, book, rows, running, flow, literal, total)
        busy, held = book[SERVICE, 0] > 0, book[GPU_POOL, pool.USED]
        if book[TICK, 0] == before:
            decide(traffic, settings, book, rows, running, flow, NOTHING)
        if busy:
            total[TICKS] += 1
            total[BUSY_US] += book[LASTED, 0]
            total[BLOCK_TICKS] += held
            if noted < durations.shape[0]:
                durations[noted] = book[LASTED, 0]
                noted += 1
        while next_at <= book[CLOCK, 0] and taken < samples.shape[0]:
            total[AT], total[WAITING], total[PREEMPTED] = (
                book[CLOCK, 0],
                length(book, QUEUES),
                book[TERMS + FORCED, 0],
            )
            total[COME] = book[ARRIVED, 0]
            total[BLOCKS_IDLE] = blocks_idle(book, rows)
            total[BLOCKS_HELD] = book[GPU_POOL, pool.USED] - total[BLOCKS_IDLE]
            for k in range(SAMPLE):
                samples[taken, k] = total[k]
            taken += 1
            next_at += every
    return taken, noted


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What a server did, at equal intervals."""

    samples: np.ndarray
    """int64 ``[n, SAMPLE]``."""
    durations_us: np.ndarray
    """Of the iterations that computed, those after the warm-up."""

    def gained(self, column: int) -> int:
        """What a total gained after the warm-up."""
        return int(self.samples[-1, column] - self.samples[self.settled, column])

    @property
    def settled(self) -> int:
        """The sample with which the warm-up ends."""
        return int(WARM_UP * len(self.samples))

    @property
    def seconds(self) -> float:
        """Measured, without the warm-up."""
        return self.gained(AT) / 1e6

    def queue_slope(self, rate: float | None = None) -> float:
        """Requests per second by which the queue grows, least squares after the warm-up.

        With the arrivals' true `rate` their own noise is taken out (a control variate): right where the queue
        is never empty, since then nobody is served sooner because somebody else came."""
        measured = self.samples[self.settled :]
        at_s, waiting = measured[:, AT] / 1e6, measured[:, WAITING]
        if rate is None:
            return float(np.polyfit(at_s, waiting, 1)[0])
        return rate + float(np.polyfit(at_s, waiting - measured[:, COME], 1)[0])


def watch(
    scenario: Scenario, load: Traffic, admission: str, samples: int = SAMPLES, keep_durations: bool = False
) -> Run:
    """Serves a traffic from an empty server on, with `samples` samples until its end."""
    state = new_state(scenario, 0, load)
    end, table = np.int64(load.end_us), np.zeros((samples, SAMPLE), np.int64)
    durations = np.zeros(load.end_us // 5_000 if keep_durations else 0, np.int64)
    total = np.zeros(SAMPLE, np.int64)
    literal, every = np.int64(admission == FOOTPRINT), np.int64(max(load.end_us // samples, 1))
    taken, noted = serve(*state.columns, literal, end, every, table, total, durations)
    return Run(table[:taken], durations[int(WARM_UP * noted) : noted])

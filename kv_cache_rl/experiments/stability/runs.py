"""A server that admits what fits, sampled at equal intervals: the compiled loop behind every measurement.

It is a service model of its own, not an agent: it sees no view, admits from the Free queue only, by one of
three rules, and counts inside the tick.
"""

from dataclasses import dataclass

import numpy as np

from kv_cache_rl.core import pool
from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.compiled import blocks_for
from kv_cache_rl.sim.serving.actions import ADMIT, EVICT_OLDEST, NOTHING
from kv_cache_rl.sim.serving.columns import FREE, GPU_POOL, WORD, columns_of
from kv_cache_rl.sim.serving.demand import Traffic
from kv_cache_rl.sim.serving.dynamics import decide, new_state
from kv_cache_rl.sim.serving.spec import Scenario
from kv_cache_rl.sim.views import cells, record

SAMPLE = record(
    ("clock_us", WORD),
    ("waiting", WORD),  # requests in the queue
    ("blocks_held", WORD),  # by requests in service
    ("blocks_idle", WORD),  # by idle caches
    # Totals since the start:
    ("ticks", WORD),  # iterations that computed
    ("busy_us", WORD),  # their microseconds
    ("block_ticks", WORD),  # blocks held, summed over them
    ("arrived", WORD),  # requests
    ("admitted", WORD),  # first admissions
    ("preempted", WORD),  # forced preemptions
    ("history", WORD),  # history tokens that the admitted brought
    ("found", WORD),  # of them found in a cache
)

RESERVE, OPTIMISTIC, FOOTPRINT = "reserve", "optimistic", "footprint"
"""Admit what can finish without a preemption (projected use) · what fits now · what leaves room for all final
footprints.
"""
ADMISSIONS = (RESERVE, OPTIMISTIC, FOOTPRINT)
WARM_UP = 0.25
"""Share of a run that is not measured."""
SAMPLES = 96


@uncounted
def footprints_fit(c):
    """Whether the final footprints of all in service, and of the queue's head, fit into memory together."""
    head, size = c.requests[c.book.queues[FREE].first], c.settings.block_tokens
    final = blocks_for(head.prompt + head.output, size)
    for i in range(c.book.serving):
        q = c.requests[c.running[i]]
        final += blocks_for(q.prompt + q.output, size)
    return final <= c.book.pools[GPU_POOL, pool.CAPACITY]


@uncounted
def admit_all(c, literal, total):
    """Admits the head of the Free queue until it does not fit; the oldest idle caches make room for it."""
    tick, queue = c.book.ticks, c.book.queues[FREE]
    # The last decision of an iteration lets it pass: what is left waits for the next.
    while queue.first >= 0 and c.book.ticks == tick:
        if literal and not footprints_fit(c):
            break
        head, waiting = queue.first, queue.count
        new = c.rows[head].found < 0
        decide(c, ADMIT)
        if queue.count < waiting or c.book.ticks > tick:
            if new and c.rows[head].found >= 0:
                total.admitted += 1
                total.history += c.requests[head].history
                total.found += c.rows[head].found
        elif c.book.idle[FREE].first >= 0:
            decide(c, EVICT_OLDEST)
        else:
            break


@uncounted
def sample(c, total):
    """Writes what can be seen at this moment into the totals."""
    total.clock_us, total.waiting = c.book.clock_us, c.book.queues[FREE].count
    total.preempted, total.arrived = c.terms.forced_preemption, c.book.arrived
    # All others in use are of requests in service.
    total.blocks_idle = c.book.idle_sums[FREE].blocks
    total.blocks_held = c.book.pools[GPU_POOL, pool.USED] - total.blocks_idle


@uncounted
def serve(fixed, live, literal, until, every, samples, durations):
    """Serves until `until` (µs) and writes a SAMPLE every `every` µs; how many samples, how many durations.

    `samples` int64 ``[n + 1, SAMPLE]``: the last row is where totals are kept. `durations` takes the
    microseconds of iterations that computed, as far as it goes.
    """
    c = columns_of(fixed, live)
    most = samples.shape[0] - 1
    total = samples[most].view(SAMPLE)[0]
    taken, noted, next_at = 0, 0, every
    while c.book.alive and c.book.clock_us < until and taken < most:
        before = c.book.ticks
        admit_all(c, literal, total)
        busy, held = c.book.serving > 0, c.book.pools[GPU_POOL, pool.USED]
        if c.book.ticks == before:
            decide(c, NOTHING)
        if busy:
            total.ticks += 1
            total.busy_us += c.book.last_tick_us
            total.block_ticks += held
            if noted < durations.shape[0]:
                durations[noted] = c.book.last_tick_us
                noted += 1
        while next_at <= c.book.clock_us and taken < most:
            sample(c, total)
            for k in range(samples.shape[1]):
                samples[taken, k] = samples[most, k]
            taken += 1
            next_at += every
    return taken, noted


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What a server did, at equal intervals."""

    samples: np.ndarray
    """SAMPLE ``[n]``."""
    durations_us: np.ndarray
    """Of the iterations that computed, those after the warm-up."""

    def gained(self, total: str) -> int:
        """What a total gained after the warm-up."""
        return int(self.samples[total][-1] - self.samples[total][self.settled])

    @property
    def settled(self) -> int:
        """The sample with which the warm-up ends."""
        return int(WARM_UP * len(self.samples))

    @property
    def seconds(self) -> float:
        """Measured, without the warm-up."""
        return self.gained("clock_us") / 1e6

    def queue_slope(self, rate: float | None = None) -> float:
        """Requests per second by which the queue grows, least squares after the warm-up.

        With the arrivals' true `rate` their own noise is taken out (a control variate): right where the
        queue is never empty, since then the service does not depend on when requests arrive.
        """
        measured = self.samples[self.settled :]
        at_s, waiting = measured["clock_us"] / 1e6, measured["waiting"]
        if rate is None:
            return float(np.polyfit(at_s, waiting, 1)[0])
        return rate + float(np.polyfit(at_s, waiting - measured["arrived"], 1)[0])


def watch(
    scenario: Scenario, load: Traffic, admission: str, samples: int = SAMPLES, keep_durations: bool = False
) -> Run:
    """Serves a traffic from an empty server on, with `samples` samples until its end."""
    state = new_state(scenario, 0, load)
    end, table = np.int64(load.end_us), np.zeros((samples + 1, cells(SAMPLE)), np.int64)
    durations = np.zeros(load.end_us // 5_000 if keep_durations else 0, np.int64)
    literal, every = np.int64(admission == FOOTPRINT), np.int64(max(load.end_us // samples, 1))
    taken, noted = serve(*state.buffers, literal, end, every, table, durations)
    return Run(table[:taken].view(SAMPLE)[:, 0], durations[int(WARM_UP * noted) : noted])

"""The server as columns, and the books it has to keep.

`columns` is what compiled code takes, in this order:

==========  =====================  ================================================================================
`traffic`   int64 ``[R, 7]``       the requests in order of arrival; fixed, shared by all copies (`generate`)
`settings`  int64 ``[SETTINGS]``   the scenario in compiled units; fixed
`book`      int64 ``[BOOK, 2]``    pool ledgers, clock, lists, counters, reward terms
`rows`      int64 ``[R, 16]``      what became of each request
`running`   int64 ``[2, R]``       rows in service, first admitted first; beneath it room for a plan
`flow`      float64                rate estimates (`theory.controller`)
==========  =====================  ================================================================================
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kv_cache_rl.core import pool
from kv_cache_rl.core.hardware import HARDWARE
from kv_cache_rl.sim.serving.generate import Traffic, traffic
from kv_cache_rl.sim.serving.spec import Scenario, block_bytes, link_rates
from kv_cache_rl.theory.flow import new_flow

ARRIVAL, PROMPT, OUTPUT, VIP, POWER, PARENT, HISTORY = range(7)
"""Columns of the traffic: microseconds · tokens, history included · tokens · 0 or 1 · 0 or 1 · row of the
user's turn before, or
-1 · leading tokens of the prompt that are the parent's prompt and output."""

(
    STATUS,
    WHERE,
    BLOCKS,
    PAGES,
    TOKENS,
    MADE,
    HIGH,
    SINCE,
    WAITED,
    SERVED,
    FIRST,
    ENDED,
    FOUND,
    BEFORE,
    AFTER,
    NEXT,
) = range(16)
"""Columns of a row: status · where its KV is · blocks it holds on the GPU · on the CPU · tokens of KV ·
output tokens made · most tokens of KV it ever had · when it began to wait or became idle · microseconds
waited · microseconds of ticks in which it advanced · first token · completion (-1: unfinished, and a later
turn was admitted) · history found in a cache (-1: never admitted) · neighbours in its list · next on its
lane."""

FUTURE, QUEUED, ACTIVE, FINISHED, DROPPED, REJECTED = range(6)
NOWHERE, GPU, LEAVING, CPU, ENTERING = range(5)

GPU_POOL, CPU_POOL = 0, 1
"""Rows of the book that are the pool ledger: capacity, used."""
CLOCK, TICK, ARRIVED, SERVICE, STREAK, PAST, ALIVE, LASTED = 2, 3, 4, 5, 6, 7, 10, 23
"""now, end · iterations run, decisions in this tick · next row to arrive, crash cause · rows in service, of
them decoding · ticks of collapse in a row · used blocks at the last six ticks (three rows) · 1 until the
episode ends, microseconds a lane was busy in the last tick · microseconds of the last tick."""
QUEUES, IDLE, STORED = 11, 13, 15
"""First and last row of each list, Free then VIP: waiting, idle on the GPU, idle on the CPU."""
COUNTS = 17
"""Length of each of the six lists above, in one row each."""
LANES = 24
"""First and last row of the outbound and the inbound lane."""
LEFT = 26
"""What the transfer at the head of the lane has yet to carry (bytes, latency included); transfers ended."""
HEADS = 28
"""The largest idle cache of each class (-1: none), 1 while it has to be looked for."""
ACTIVE_LARGEST = 30
"""The largest active row on the GPU of each class (-1: none), 1 while it has to be looked for."""
TERMS = 32
"""Reward terms since the start, and at the decision before."""
N_TERMS = 8
COMPLETED, SERVED_TOKENS, MISSED, LOST, REFUSED, FORCED, SWAPPED, PRESSED = range(N_TERMS)
"""Reward terms, in their own units (`score.TERM_WEIGHTS` says which); the last in microseconds."""
BOOK = TERMS + N_TERMS

CRASHES = ("", "no block for decode growth", "queues full and no memory")
(
    BLOCK_TOKENS,
    BUDGET,
    ACTIONS,
    RESERVE,
    STRICT,
    REUSE,
    CAP_FREE,
    CAP_VIP,
    SLA_FREE,
    SLA_VIP,
    WAIT_FREE,
    WAIT_VIP,
    NOMINAL,
    FIXED,
    C1,
    C2,
    PER_KV,
    BLOCK_BYTES,
    ONE_WAY,
    BOTH_WAYS,
    LATENCY_BYTES,
    SERVICE_RATE,
) = range(22)
SETTINGS = 22
"""Of the settings: block tokens · token budget · decisions per tick · reserve · strict · reuse · queue caps ·
SLA in microseconds · what waits are shown against · nominal tick · fixed µs of an iteration · prefill ns per
token, ps per pair · ps per KV token read · bytes of a block · bytes per µs of the link, of both lanes ·
latency in bytes · requests per 10^9 s."""

WITHOUT_SLA = 1 << 62
SHOWN_WAIT = 500
"""Nominal ticks that waits are shown against where there is no SLA, and ages of idle caches always."""


class Columns(NamedTuple):
    """What compiled code takes."""

    traffic: np.ndarray
    settings: np.ndarray
    book: np.ndarray
    rows: np.ndarray
    running: np.ndarray
    flow: np.ndarray


def settings_of(scenario: Scenario, load: Traffic) -> np.ndarray:
    """The scenario in compiled units."""
    profile = HARDWARE[scenario.hardware]
    one_way, both_ways, latency_us = link_rates(scenario)
    tick_us = load.tick_us
    values = np.zeros(SETTINGS, np.int64)
    values[BLOCK_TOKENS], values[BUDGET] = scenario.block_tokens, scenario.token_budget
    values[ACTIONS], values[RESERVE] = scenario.actions_per_tick, scenario.admission == "reserve"
    values[STRICT], values[REUSE] = scenario.strict, scenario.reuse
    values[CAP_FREE], values[CAP_VIP] = scenario.queue_free, scenario.queue_vip
    for vip, (limit, shown) in enumerate(((SLA_FREE, WAIT_FREE), (SLA_VIP, WAIT_VIP))):
        ticks = scenario.sla(bool(vip))
        values[limit] = WITHOUT_SLA if ticks == float("inf") else round(ticks * tick_us)
        values[shown] = SHOWN_WAIT * tick_us if ticks == float("inf") else max(values[limit], 1)
    values[NOMINAL], values[FIXED] = tick_us, max(1, round((profile.decode_fixed_s) * 1e6))
    values[C1], values[C2] = round(profile.prefill_c1_s * 1e9), round(profile.prefill_c2_s * 1e12)
    values[PER_KV] = round(profile.decode_per_kv_token_s * 1e12)
    values[BLOCK_BYTES], values[ONE_WAY], values[BOTH_WAYS] = block_bytes(scenario), one_way, both_ways
    values[LATENCY_BYTES] = latency_us * one_way
    values[SERVICE_RATE] = round(load.service_rate * 1e9)
    return values


@dataclass(slots=True)
class State:
    """A server in the middle of an episode; only `dynamics` changes it."""

    scenario: Scenario
    seed: int
    load: Traffic
    columns: Columns

    @property
    def done(self) -> bool:
        return not self.columns.book[ALIVE, 0]

    @property
    def crashed(self) -> str:
        """Why the episode ended early, or nothing."""
        return CRASHES[self.columns.book[ARRIVED, 1]]

    @property
    def seconds(self) -> float:
        return float(self.columns.book[CLOCK, 0]) / 1e6

    def copy(self) -> "State":
        """The same server, from here on its own; the traffic, which nobody changes, is shared."""
        fixed, own = self.columns[:2], self.columns[2:]
        return State(self.scenario, self.seed, self.load, Columns(*fixed, *(array.copy() for array in own)))

    def check(self) -> None:
        """Counts every block and every list anew.

        Raises:
            core.pool.LedgerError: something is in no place or in two.
        """
        from kv_cache_rl.sim.serving.audit import audit

        audit(self.columns)


def declared_flow(scenario: Scenario, load: Traffic) -> np.ndarray:
    """The rate estimates before anybody has come: what the traffic declares, a request's time at the nominal
    tick.
    """
    lengths = load.lengths
    iterations = lengths.output + max(lengths.prompt / scenario.token_budget, 1.0)
    return new_flow(
        scenario.control_window_s,
        arrival_rate=load.arrival_rate,
        service_s=iterations * load.tick_us / 1e6,
        blocks=(lengths.prompt + lengths.output) / scenario.block_tokens,
    )


def new_state(scenario: Scenario, seed: int = 0, load: Traffic | None = None) -> State:
    """The empty server at second 0, before its first decision; `load` stands in for the scenario's own
    traffic.

    Raises:
        ServingError: the seed or the traffic cannot be used.
        TraceError: the scenario names a trace that cannot be used.
    """
    from kv_cache_rl.sim.serving.dynamics import open_doors

    load = traffic(scenario, seed) if load is None else load
    requests = len(load.table)
    book = np.zeros((BOOK, 2), np.int64)
    book[GPU_POOL, pool.CAPACITY], book[CPU_POOL, pool.CAPACITY] = scenario.gpu_blocks, scenario.cpu_blocks
    book[CLOCK, 1] = scenario.ticks * load.tick_us
    book[QUEUES : QUEUES + 6], book[LANES : LANES + 2] = -1, -1
    book[HEADS : HEADS + 2, 0], book[ACTIVE_LARGEST : ACTIVE_LARGEST + 2, 0] = -1, -1
    book[ALIVE, 0] = 1
    rows = np.zeros((requests, 16), np.int64)
    rows[:, FOUND], rows[:, BEFORE], rows[:, AFTER], rows[:, NEXT] = -1, -1, -1, -1
    flow = declared_flow(scenario, load)
    columns = Columns(
        load.table, settings_of(scenario, load), book, rows, np.zeros((2, max(requests, 1)), np.int64), flow
    )
    open_doors(*columns)
    return State(scenario, seed, load, columns)

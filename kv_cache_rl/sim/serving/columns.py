"""The columns of a server: every cell has one meaning and a name, for compiled code and for numpy alike.

A server is two packed int64 buffers, which are copied, stacked and stored as they are:

    fixed   SETTINGS | R x REQUEST                        never changes; all copies share it
    live    BOOK | R x ROW | running [R] | plan [R]       everything else

Compiled functions take ``c = columns_of(fixed, live)`` and read ``c.book.clock_us``,
``c.rows[row].status``, ``c.book.lanes[OUT].left_bytes``; numpy reads ``c.rows["status"]``.
Rows and requests have the same index: the order of arrival. "No row" is -1.
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from kv_cache_rl.jit import njit
from kv_cache_rl.sim.views import cells, record
from kv_cache_rl.theory.flow import FLOW_SIZE

WORD = np.int64

FREE, VIP = range(2)
"""User classes."""
FUTURE, QUEUED, ACTIVE, FINISHED, DROPPED, REJECTED = range(6)
"""Values of ``ROW.status``."""
NOWHERE, GPU, LEAVING, CPU, ENTERING = range(5)
"""Values of ``ROW.where``: the KV of a request that is leaving or entering has blocks on both sides."""
GPU_POOL, CPU_POOL = range(2)
"""Rows of ``BOOK.pools``."""
OUT, IN = range(2)
"""Lanes of the link, seen from the GPU."""
NOW, BEFORE = range(2)
"""Rows of ``BOOK.units``."""


class Crash(IntEnum):
    """Values of ``BOOK.crash``: why the episode ended early."""

    NO = 0
    NO_BLOCK = 1
    COLLAPSE = 2


CRASHES = {
    Crash.NO: "",
    Crash.NO_BLOCK: "no block for decode growth",
    Crash.COLLAPSE: "queues full and no memory",
}
"""Text of ``BOOK.crash``."""


REQUEST = record(
    ("arrival", WORD),  # microseconds
    ("prompt", WORD),  # tokens, history included
    ("output", WORD),  # tokens
    ("vip", WORD),  # user class: FREE or VIP
    ("power", WORD),  # 1: a power user
    ("parent", WORD),  # row of the user's turn before, or -1
    ("history", WORD),  # leading tokens of the prompt that are the parent's prompt and output
)

ROW = record(
    ("status", WORD),  # FUTURE, QUEUED, ACTIVE, FINISHED, DROPPED or REJECTED
    ("where", WORD),  # its KV: NOWHERE, GPU, LEAVING, CPU or ENTERING
    ("blocks", WORD),  # blocks it holds on the GPU
    ("cpu_blocks", WORD),  # blocks it holds on the CPU
    ("tokens", WORD),  # tokens of KV
    ("made", WORD),  # output tokens so far
    ("high", WORD),  # most tokens of KV it ever had
    ("since", WORD),  # microsecond at which it began to wait, entered service or became idle
    ("waited", WORD),  # microseconds in a queue
    ("served", WORD),  # microseconds of the ticks in which it advanced
    ("first", WORD),  # microsecond of its first token, 0 before
    ("ended", WORD),  # microsecond of its completion, 0 before; -1 if its cache will not be used
    ("found", WORD),  # history tokens found in a cache at its first admission, -1 before
    ("before", WORD),  # neighbour in its list
    ("after", WORD),  # neighbour in its list
    ("next", WORD),  # next row on its lane
)

LIMITS = record(
    ("queue", WORD),  # requests its queue holds
    ("sla_us", WORD),  # longest wait, microseconds
    ("shown_wait_us", WORD),  # what waits are shown against, microseconds
)

SETTINGS = record(
    ("requests", WORD),  # R
    ("block_tokens", WORD),
    ("token_budget", WORD),  # tokens of an iteration
    ("actions_per_tick", WORD),
    ("reserve", WORD),  # 1: admit only what can finish without a forced preemption
    ("strict", WORD),  # 1: the episode ends where decode growth finds no block
    ("reuse", WORD),  # 1: the KV of finished requests stays
    ("tick_us", WORD),  # the nominal tick
    ("fixed_us", WORD),  # of every iteration
    ("prefill_ns", WORD),  # per token
    ("prefill_pair_ps", WORD),  # per pair of tokens
    ("kv_read_ps", WORD),  # per KV token read
    ("block_bytes", WORD),
    ("one_way", WORD),  # bytes per microsecond while one lane is busy
    ("both_ways", WORD),  # bytes per microsecond of each lane while both are
    ("latency_bytes", WORD),  # latency of a transfer, in bytes at `one_way`
    ("service_rate", WORD),  # requests per 10^9 seconds
    ("classes", LIMITS, 2),
)

TERMS = record(
    ("completed_in_sla", WORD),  # completions after a wait within the SLA
    ("tokens_served", WORD),  # tokens computed for the first time, or found in a cache
    ("sla_missed", WORD),  # completions after a longer wait
    ("dropped", WORD),  # requests whose queue was full
    ("rejected", WORD),  # rejections; two units if the request would have fit
    ("forced_preemption", WORD),  # preemptions by the engine
    ("swap_traffic", WORD),  # blocks sent over the link, either way
    ("memory_pressure", WORD),  # microseconds of ticks during which a queue's head did not fit
)
"""Reward terms since the start, in their own units; `score.TERM_WEIGHTS` says what each is worth."""
N_TERMS = len(TERMS.names or ())

LIST = record(("first", WORD), ("last", WORD), ("count", WORD))

SUMS = record(
    ("blocks", WORD),
    ("blocks_squared", WORD),
    ("since", WORD),
    ("since_squared", WORD),  # modulo 2^64
)
"""Sums over a list of idle caches: whole numbers, which are exact in whatever order they are added."""

LANE = record(
    ("first", WORD),  # the row whose blocks are crossing
    ("last", WORD),
    ("left_bytes", WORD),  # what the first has yet to send, latency included
    ("blocks", WORD),  # GPU blocks of all rows on it
)

LARGEST = record(
    ("idle", WORD),  # the largest idle cache of the class on the GPU
    ("idle_unknown", WORD),  # 1: it has to be looked for
    ("active", WORD),  # the largest active row of the class on the GPU
    ("active_unknown", WORD),  # 1: it has to be looked for
)

BOOK = record(
    ("pools", WORD, (2, 2)),  # the ledger of core.pool: GPU and CPU, capacity and used blocks
    ("clock_us", WORD),
    ("end_us", WORD),  # when the episode ends
    ("alive", WORD),  # 1 until it has ended
    ("crash", WORD),  # why it ended early, a Crash
    ("ticks", WORD),  # iterations so far
    ("decisions", WORD),  # in this tick
    ("arrived", WORD),  # requests so far: the next row to arrive
    ("serving", WORD),  # rows in service
    ("decoding", WORD),  # of them those that are past their prefill, on the GPU
    ("full_ticks", WORD),  # ticks in a row with full queues and full memory
    ("last_tick_us", WORD),  # duration of the last tick
    ("lane_busy_us", WORD),  # of the last tick, while a lane was busy
    ("tokens_preempted", WORD),  # tokens of KV that forced preemptions threw away
    ("past", WORD, 6),  # used GPU blocks after each of the last six ticks, oldest first
    ("queues", LIST, 2),  # by class: waiting, first to be admitted first
    ("idle", LIST, 2),  # by class: finished, KV on the GPU, oldest first
    ("idle_sums", SUMS, 2),  # by class: over `idle`
    ("stored", LIST, 2),  # by class: finished, KV on the CPU, oldest first
    ("lanes", LANE, 2),  # OUT and IN, next to land first
    ("largest", LARGEST, 2),  # by class
    ("units", WORD, (2, N_TERMS)),  # TERMS now, and at the decision before
    ("flow", np.float64, FLOW_SIZE),  # rate estimates (theory.flow)
)


def place(name: str) -> int:
    """Where a field of the book begins in `live`."""
    return dict(BOOK.fields or {})[name][1] // 8


SETTINGS_WORDS, REQUEST_WORDS, BOOK_WORDS, ROW_WORDS = map(cells, (SETTINGS, REQUEST, BOOK, ROW))
UNITS = place("units")


def fixed_size(requests: int) -> int:
    """Length of `fixed`."""
    return SETTINGS_WORDS + requests * REQUEST_WORDS


def live_size(requests: int) -> int:
    """Length of `live`."""
    return BOOK_WORDS + requests * (ROW_WORDS + 2)


class Columns(NamedTuple):
    """Views of the two buffers."""

    requests: np.ndarray
    """REQUEST ``[R]`` in order of arrival."""
    settings: np.record
    """SETTINGS."""
    book: np.record
    """BOOK."""
    terms: np.record
    """TERMS: the cells ``book.units[NOW]`` by name."""
    rows: np.ndarray
    """ROW ``[R]``: what became of each request."""
    running: np.ndarray
    """int64 ``[R]``: rows in service, first admitted first; ``book.serving`` of them count."""
    plan: np.ndarray
    """int64 ``[R]``: room for `admission.all_can_finish`."""


def views(fixed: np.ndarray, live: np.ndarray) -> Columns:
    """The columns of a server; buffers may have spare room at their ends."""
    settings = fixed[:SETTINGS_WORDS].view(SETTINGS)[0]
    n = settings.requests
    running = BOOK_WORDS + n * ROW_WORDS
    return Columns(
        fixed[SETTINGS_WORDS : SETTINGS_WORDS + n * REQUEST_WORDS].view(REQUEST),
        settings,
        live[:BOOK_WORDS].view(BOOK)[0],
        live[UNITS : UNITS + N_TERMS].view(TERMS)[0],
        live[BOOK_WORDS:running].view(ROW),
        live[running : running + n],
        live[running + n : running + 2 * n],
    )


columns_of = njit(inline="always")(views)
"""`views` for compiled code; inlined, since a function cannot return records."""

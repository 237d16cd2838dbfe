"""The columns of an eviction episode: records and enums that name every cell, and views of the buffers.

`scn`   header (`SCENARIO`), static columns per slot (`Static`), turn table (`TURN`)
`live`  dynamic columns per slot (`Slot`), prefixes (`PREFIX`), pool ledger, counters (`Counter`)

A slot is one cache entry that may exist: one per session, one for the dead part of every turn that
leaves one, and one anchor per shared prefix. Memory is counted in units of a quarter page: fp16, int8
and int4 pages take 4, 2 and 1 units.

Compiled code makes its views with `columns_of` and reads `c.constants.budget_units`,
`c.dyn[Slot.LEVEL, i]`, `c.turns[k].out`. Records are made inside compiled code: handed in from Python,
each costs half a microsecond."""

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from kv_cache_rl.jit import njit
from kv_cache_rl.sim.views import records, table

UNITS_PER_PAGE = 4


def record(*fields: str) -> np.dtype:
    """The dtype of int64 fields that are read by name, in Python as in compiled code."""
    return np.dtype((np.record, np.dtype([(name, np.int64) for name in fields], align=True)))


def cells(dtype: np.dtype) -> int:
    """How many int64 a record takes."""
    return dtype.itemsize // 8


SCENARIO = record(
    "sessions",  # slots that are sessions; they come first
    "slots",
    "turns",  # rows of the turn table
    "prefixes",  # anchors, which are the last slots
    "steps",  # windows of the episode
    "step_us",  # microseconds of a window
    "budget_units",  # GPU memory that may be used
    "gpu_units",  # GPU memory
    "cpu_units",  # CPU pool
    "link_ns",  # nanoseconds to move one unit over the link
    "link_fixed_us",  # microseconds of a transfer, whatever its size
    "prefill_c1_ns",  # nanoseconds of prefill per token
    "prefill_c2_ps",  # picoseconds of prefill per token and token before it
    "norm",  # completed tokens that earn the full throughput reward
)
HEADER = 16
"""Cells of `scn` before the static columns; the last two are spare."""

TURN = record(
    "arrive",  # window of arrival; negative if it decodes already when the episode begins
    "context",  # own tokens of history
    "new",  # tokens of its prompt
    "out",  # tokens to generate
    "after",  # own tokens it leaves for the next turn
    "dead_kind",  # `Dead`: what the rest of it is
    "leaves",  # `Kind` of the context it leaves
    "dead_slot",  # slot of its dead part, -1 without one
)

PREFIX = record(
    "tokens",
    "pages",
    "refs",  # entries that hold it, its anchor among them
    "ever",  # 1 once it has been computed
)

CALL = record(
    "verb",  # `Verb`
    "entry",  # slot, or row of the view where a decider writes it; -1 for an id that does not exist
)

EVENT = record(
    "what",  # `Event`
    "slot",
    "value",  # tokens of a completion or arrival; microseconds of prefill, wait or swap-in of the others
)


class Static(IntEnum):
    """Static columns per slot."""

    ROLE = 0
    CLASS = 1  # index in WORK_CLASSES
    TOLERANCE = 2  # lowest rung of LADDER at which its answers stay right
    PRIORITY = 3  # parts per thousand
    RATE = 4  # tokens decoded per window
    PREFIX = 5  # index of the shared prefix, or -1
    NUM_TURNS = 6
    FIRST_TURN = 7  # row of its first turn in the turn table


class Slot(IntEnum):
    """Dynamic columns per slot. Times are microseconds where they say so, windows elsewhere."""

    KIND = 0
    PHASE = 1
    PLACE = 2
    LEVEL = 3  # rung of LADDER
    TOKENS = 4  # own tokens cached
    PAGES = 5  # own pages at 16 bits
    REF = 6  # 1 if it holds its shared prefix
    TURN = 7  # turns that are over
    GENERATED = 8  # tokens of the current turn's answer
    TODO_US = 9  # prefill still to do, microseconds
    LOST_US = 10  # of that: work that was done before
    WAIT_US = 11  # waited in this turn, microseconds
    EVER = 12  # tokens computed so far; computing them again counts as recomputed
    LAST = 13  # window of the last access
    COUNT = 14  # accesses
    BORN = 15  # window in which it was stored
    HOT = 16  # hotness at the last access, parts per thousand
    BUSY = 17
    SPOILED = 18  # coarsest rung below its tolerance at which this turn was decoded; 0: none
    ORDER = 19  # key of the order of arrival


class Counter(IntEnum):
    """Counters of an episode."""

    WINDOW = 0  # windows played
    QUEUE = 1  # sessions queued after the last window
    QUEUE_BEFORE = 2  # and after the one before
    PEAK = 3  # units in use at the last window's peak
    LINK_USED = 4  # microseconds of transfers that the link has yet to carry
    LINK_BUSY_US = 5  # microseconds that the link was busy in the last window
    PREFILL_BUSY_US = 6
    ABOVE_95 = 7  # windows above 95 % of the budget
    TOKENS_DONE = 8  # tokens of completed turns
    FAILURES = 9
    FAILED_WAIT = 10
    FAILED_INT8 = 11
    FAILED_INT4 = 12
    PREEMPTED = 13
    FAILED_END = 14
    LATENCY_US = 15  # swap-in delay
    HEADROOM = 16  # tenths of the headroom reward
    RISKY = 17  # hundredths of the risky-eviction penalty
    CALLS = 18
    INVALID = 19
    TEXT_ONLY = 20  # windows without a call
    RECOMPUTED = 21  # tokens
    ARRIVED = 22
    COMPLETED = 23
    EVENTS = 24  # events recorded in the last window


COUNTERS = 28
"""Cells of the counters; the last three are spare."""


class Role(IntEnum):
    SESSION = 0
    DEAD = 1
    ANCHOR = 2


class Dead(IntEnum):
    """Index in DEAD_KINDS."""

    NOTHING = 0
    REASONING = 1
    EPHEMERAL = 2


class Kind(IntEnum):
    """Index in BLOCK_TYPES."""

    SYSTEM = 0
    CONTEXT = 1
    TOOL_RESULT = 2
    GENERATION = 3
    REASONING = 4
    EPHEMERAL = 5


class Phase(IntEnum):
    """IDLE --arrival--> QUEUED --admission--> PREFILL --> DECODE --> IDLE
    ^--- evicted or swapped out ----'---------'
    """

    IDLE = 0
    QUEUED = 1
    PREFILL = 2
    DECODE = 3


class Place(IntEnum):
    """Index in PLACES."""

    NOWHERE = 0
    GPU = 1
    CPU = 2


class Busy(IntEnum):
    """What keeps a running session from decoding in this window."""

    NOTHING = 0
    PAUSED = 1  # compressed, or its cache came late over the link
    INTERRUPTED = 2  # sent to the CPU


class Tier(IntEnum):
    """Rows of the ledger."""

    GPU = 0
    CPU = 1


class Columns(NamedTuple):
    """All views of an episode, made once a window: each costs as much as a pass over the slots."""

    constants: np.record
    """`SCENARIO`"""
    static: np.ndarray
    """``[len(Static), slots]``"""
    turns: np.ndarray
    """`TURN` ``[turns]``"""
    dyn: np.ndarray
    """``[len(Slot), slots]``"""
    prefixes: np.ndarray
    """`PREFIX` ``[prefixes]``"""
    ledger: np.ndarray
    """``[len(Tier), 2]``: capacity and used, in units"""
    counters: np.ndarray
    """``[COUNTERS]``"""


_HEADER_FIELDS = cells(SCENARIO)
_STATIC, _DYNAMIC, _TIERS = len(Static), len(Slot), len(Tier)
_TURN_CELLS, _PREFIX_CELLS = cells(TURN), cells(PREFIX)


def constants(scn):
    """The header of `scn`."""
    return records(scn[:_HEADER_FIELDS], SCENARIO)[0]


def columns(scn, live):
    """Views of both buffers, for Python; compiled code calls `columns_of`, which is the same."""
    head = records(scn[:_HEADER_FIELDS], SCENARIO)[0]
    slots = head.slots
    turns = HEADER + _STATIC * slots
    prefixes = _DYNAMIC * slots
    ledger = prefixes + _PREFIX_CELLS * head.prefixes
    counters = ledger + 2 * _TIERS
    return Columns(
        head,
        table(scn[HEADER:turns], _STATIC, slots),
        records(scn[turns : turns + _TURN_CELLS * head.turns], TURN),
        table(live[:prefixes], _DYNAMIC, slots),
        records(live[prefixes:ledger], PREFIX),
        table(live[ledger:counters], _TIERS, 2),
        live[counters : counters + COUNTERS],
    )


# Inlined, as a function that returns records does not compile.
constants_of = njit(inline="always")(constants)
columns_of = njit(inline="always")(columns)


@njit(inline="always")
def calls_of(packed):
    """Calls in packed int64 ``[..., 2]`` as one run of `CALL` records."""
    return records(packed, CALL)


@njit(inline="always")
def events_of(packed):
    """Room for events, int64 ``[E, 3]``, as `EVENT` records."""
    return records(packed, EVENT)

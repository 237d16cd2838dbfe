"""Everything a replay knows: pages, the order in which they leave each tier, tiers with their links, sums.

Each record below is declared once; compiled code and numpy read its fields by name:
``s.page[p].last_access``, ``state.page["tier"] == 0``. No field bears the name of a numpy attribute
(``size``, ``squeeze``), which would hide it from Python.

Sizes: ``P`` pages, ``T`` tiers, ``R`` requests, ``N`` nodes of lists: one per page, or one per page and tier
(``tier * P + page``) under queues that remember in one tier a page that lies in another.
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np

NONE = -1
"""In place of a page, a tier, a list or a clock: there is none."""
LISTS = 5
# Arguments of compiled functions are typed: a plain literal would compile each function anew for every value.
A, B, C, GHOST_A, GHOST_B = np.arange(LISTS)
"""The lists of a tier: three for its pages, two for ghosts, the pages that it remembers."""
TOP = np.int64(0)
DEMAND, PREFETCH = np.arange(2)
"""What caused a transfer."""
UP, DOWN = 0, 1
"""The directions of a link."""
SUCCESSORS, CLASSES, AGES = 4, 8, 64
"""Successors counted per page; use classes and bins of idle time that have a return hazard each."""
STABILITY = -1
"""`reserved` in place of bytes to keep free where these are estimated."""


class Order(IntEnum):
    """How the order in which pages leave is kept."""

    LISTED = 0
    """Linked lists: queues."""
    HEAPED = 1
    """A heap: ranks whose order stands still while no page is touched."""
    SCANNED = 2
    """A scan of all keys: ranks whose order changes with time without telling when, or is drawn."""
    UNKEPT = 3
    """Not at all: a shortcut (flat.py, stack.py) has replayed everything."""
    MATCHED = 4
    """A tournament (tournament.py): ranks whose order changes with time and that foretell when."""


SETTINGS = np.dtype(
    [
        ("order", "i8"),  # an Order
        ("rank", "i8"),  # index in RANKS, NONE for a queue
        ("queue", "i8"),  # index in QUEUES, NONE for a rank
        ("chained", "i8"),  # whether blocks form prefix trees
        ("closed", "i8"),  # whether a block may leave only after its children
        ("window", "i8"),  # accesses that `recent_uses` looks back; 0: not counted
        ("regrets", "i8"),  # whether regret is kept
        ("horizon", "i8"),  # accesses within which a return is regretted
        ("returns", "i8"),  # whether return hazards are learnt
        ("age_shift", "i8"),  # binary logarithm of the accesses per bin of idle time
        ("draws", "i8"),  # whether the victim is drawn
        ("inflates", "i8"),  # whether idle time is counted in evicted keys
        ("seed", "i8"),
        ("squeeze_level", "i8"),  # rungs of the ladder a victim goes down before it leaves
        ("prefetching", "i8"),  # whether successors are counted and fetched
        ("max_prefetch", "i8"),  # pages per access
        ("overlap", "i8"),  # whether transfers proceed while the GPU computes
        ("recompute", "i8"),  # whether a page in a lower tier is computed anew where that is faster
        ("stepwise", "i8"),  # whether a page found below goes up one tier instead of to the top
        ("reserved", "i8"),  # bytes kept free in the fastest tier, or STABILITY
        ("nodes", "i8"),  # N, the number of nodes that are no heads of lists
        ("stride", "i8"),  # nodes per tier: P, or 0 where all tiers share the node of a page
        ("regret_weight", "f8"),
        ("regret_decay", "f8"),  # factor per access to the page
        ("compute_s", "f8"),  # seconds of compute after each request
    ]
)
COUNTERS = np.dtype(
    [
        ("clock", "i8"),  # accesses
        ("evictions", "i8"),  # pages that left a tier to make room
        ("drops", "i8"),  # of these, from the last tier
        ("compressions", "i8"),  # rungs that victims went down
        ("recomputed", "i8"),  # pages found below and computed anew
        ("prefetches", "i8"),  # pages fetched ahead
        ("useful", "i8"),  # of these, accessed later
        ("wasted", "i8"),  # of these, evicted from the fastest tier before
        ("requests", "i8"),  # requests replayed
        ("ring_at", "i8"),  # next place in `ring`
        ("drawn", "i8"),  # random numbers drawn
        ("sketched", "i8"),  # accesses counted in `sketch` since it was halved
        ("previous", "i8"),  # page of the last access, for the successors
        ("named", "i8"),  # the last blocked page that a queue named, and
        ("leaf", "i8"),  # the parent of the block that left in its place
    ]
)
SUMS = np.dtype(
    [
        ("seconds", "f8"),  # the simulated present
        ("drained", "f8"),  # seconds up to which the links have proceeded
        ("squeezing", "f8"),  # seconds that the request at hand spent on compressing
        ("brought", "f8"),  # bytes that the request at hand brought up
        ("loss", "f8"),  # published losses of the precisions that pages were read at
        ("kl", "f8"),  # measured divergences of these, nats
    ]
)
PAGE = np.dtype(  # 16 fields of 8 bytes: two cache lines
    [
        ("tier", "i8"),  # where it lies, NONE: nowhere
        ("level", "i8"),  # rungs of the ladder it is compressed
        ("full_bytes", "i8"),  # bytes uncompressed
        ("last_access", "i8"),  # clock
        ("inserted", "i8"),  # clock when it came into its tier
        ("uses", "i8"),  # accesses since it came into any tier
        ("frequency", "i8"),  # accesses ever
        ("recent_uses", "i8"),  # among the last `window` accesses
        ("left_at", "i8"),  # clock of its last eviction, NONE once it has come back
        ("pending", "i8"),  # whether it was prefetched and not used yet
        ("place", "i8"),  # its index in the heap of its tier, NONE: not in it
        ("parent", "i8"),  # the block before it in the prefix tree, NONE: it is a root
        ("depth", "i8"),  # blocks before it in the prefix tree
        ("child", "i8"),  # the youngest of its resident children, NONE: it has none
        ("elder", "i8"),  # the next older resident child of its parent
        ("younger", "i8"),  # the next younger one
    ]
)
ENTRY = np.dtype(  # a page that could leave a tier
    [
        ("key", "f8"),  # its key at rest
        ("page", "i8"),
        ("stamp", "i8"),  # its `inserted` in heaps, its `last_access` in tournaments and scans
    ]
)
MATCH = np.dtype(  # a match of a tournament, with what is compared of its winner
    [
        ("until", "f8"),  # the clock before which the result holds, 0: it does not
        ("key", "f8"),  # the winner's key at rest
        ("stamp", "i8"),  # its `last_access`
        ("winner", "i8"),  # its index in the heap
    ]
)
NODE = np.dtype(
    [
        ("next", "i8"),  # the next older node; of a list's head: the newest
        ("previous", "i8"),  # the next newer node; of a list's head: the oldest
        ("list", "i8"),  # the list it is in, NONE: none
        ("mark", "i8"),  # the queue's own number for the page
    ]
)
TIER = np.dtype(  # 8 bytes per number; the first two are the pool ledger (core.pool)
    [
        ("capacity", "i8"),  # bytes
        ("used", "i8"),  # bytes
        ("peak", "i8"),  # most bytes used between two requests
        ("heaped", "i8"),  # pages in `heap`
        ("hand", "i8"),  # SIEVE: the page its hand points at, NONE: start at the oldest
        ("coming_from", "i8"),  # ARC: the ghost list that the page about to enter was in, NONE: none
        ("target", "f8"),  # ARC: bytes that the recent part should have
        ("inflation", "f8"),  # the last evicted key of a heap
        ("list_bytes", "i8", (LISTS,)),  # bytes by list
        ("asked", "i8"),  # bytes up its link that the request at hand waits for
        ("crossed", "i8", (2, 2)),  # bytes over its link so far, by way and cause
        ("under_way", "f8", (2,)),  # bytes under way on its link that no request waits for, by way
        ("one_way", "f8"),  # bytes per second of its link
        ("both_ways", "f8"),  # bytes per second each way while both carry something
        ("latency", "f8"),  # seconds before the first byte crosses
        ("read", "f8"),  # seconds before the first byte of a page is read from the tier
        ("write", "f8"),  # seconds before the first byte of a page is written to it
        ("quiet", "f8"),  # seconds after which its link has brought what was asked
    ]
)
RUNG = np.dtype(
    [
        ("kept", "i8"),  # 1024ths of its bytes that a page keeps
        ("loss", "f8"),  # published loss of a read
        ("kl", "f8"),  # measured divergence of a read, nats
        ("encode", "f8"),  # seconds per byte to compress; negative: they follow from the bytes moved
        ("decode", "f8"),  # seconds per byte to restore
    ]
)
FOLLOW = np.dtype(
    [
        ("successor", "i8", (SUCCESSORS,)),  # pages that followed, NONE: no page yet
        ("count", "i8", (SUCCESSORS,)),  # how often, less what other successors took from it
    ]
)


class State(NamedTuple):
    """One replay in progress; `dynamics.advance` alone changes it."""

    settings: np.record  # SETTINGS
    counters: np.record  # COUNTERS
    sums: np.record  # SUMS
    page: np.recarray  # PAGE [P]
    tiers: np.recarray  # TIER [T], fastest first
    ledger: np.ndarray  # int64 [T, words of a TIER], a view of `tiers`: capacity and used for core.pool
    served: np.ndarray  # int64 [T + 1] accesses by the tier the page was found in, the last: nowhere
    held: np.ndarray  # int64 [T] pages on their way down, NONE: none
    node: np.recarray  # NODE [N + T * LISTS], the last are the heads of the lists
    heap: np.ndarray  # ENTRY [T, P]; [T, 0] under queues
    use_class: np.ndarray  # uint8 [T, P] use classes of the entries, for keys by return hazard
    match: np.ndarray  # MATCH [T, M]; [T, 0] without a tournament
    kids: np.ndarray  # int64 [P, T] children resident by tier; [1, T] without trees
    regret: np.ndarray  # float64 [P]
    ring: np.ndarray  # int64 [window] the pages of the last accesses
    hazard: np.ndarray  # float64 [CLASSES, AGES] estimated returns per unit of idle time
    returned: np.ndarray  # float64 [CLASSES, AGES] returns it is learnt from
    accessed: np.ndarray  # float64 [CLASSES] accesses it is learnt from
    follow: np.recarray  # FOLLOW [P]; [1] without prefetching
    sketch: np.ndarray  # uint8 [4, W] TinyLFU's counts; [4, 1] without
    flow: np.ndarray  # float64 [FLOW_SIZE] of theory.flow
    rungs: np.recarray  # RUNG [len(LADDER)]
    compute_s: np.ndarray  # float64 [depths + 1] seconds to compute all blocks above a depth
    row: np.ndarray  # float64 [CANDIDATE_COLS] scratch for observe.py
    latency: np.ndarray  # float64 [R] seconds per request
    hits: np.ndarray  # int64 [R] blocks found in the fastest tier


def records(kind: np.dtype, count: int | tuple[int, int]) -> np.recarray:
    """So many records of zeros, or rows of them, whose fields Python reads by name as compiled code does."""
    return np.zeros(count, kind).view(np.recarray)


def record(kind: np.dtype) -> np.record:
    """One record of zeros."""
    return records(kind, 1)[0]

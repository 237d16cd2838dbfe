"""Policies that are queues rather than ranks, one instance per tier, one file each.

    decide: `victim` names the page that leaves next
    do:     `accessed`, `announced`, `entered`, `used` and `left` keep the lists

A queue keeps the pages of a tier in up to three lists (A, B, C), remembers pages that left in two more
(GHOST_A, GHOST_B), and has a number of its own per page (`mark`). Adding one takes a file with its functions,
its import and one line in `QUEUES`. A block whose children lie in the same tier cannot leave before them:
where a queue names one, the deepest below it leaves.

A queue reads of the state what `flat.Listed` has: settings, counters, tiers, nodes, bytes of pages, sketch.
"""

from collections.abc import Callable
from dataclasses import dataclass

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.hierarchy.lists import link_in, link_out, node_of
from kv_cache_rl.sim.hierarchy.queues import arc, fifo, lru, s3fifo, sieve, slru, tinylfu
from kv_cache_rl.sim.hierarchy.state import A


@uncounted
def _not_counted(s, p):
    pass


@uncounted
def _nothing(s, t, p):
    pass


@uncounted
def _newest(s, t, p):
    s.node[node_of(s, t, p)].mark = 0
    link_in(s, t, p, A)


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue: functions of the state `s`, a tier `t` and a page `p`; all but `victim` have defaults."""

    victim: Callable
    """(s, t) → the page that leaves next; lists may be rearranged on the way to it."""
    used: Callable = _nothing
    """(s, t, p): the page was accessed where it lies. Default: nothing."""
    announced: Callable = _nothing
    """(s, t, p): the page is about to enter the tier; room is made after this. Default: nothing."""
    entered: Callable = _newest
    """(s, t, p): the page entered the tier. Default: the newest of list A, mark 0."""
    left: Callable = link_out
    """(s, t, p): the page goes out of the tier. Default: out of its list."""
    accessed: Callable = _not_counted
    """(s, p): the page was asked for, wherever it lies; before anything moves. Default: nothing."""
    ghosts: bool = False
    """Whether pages are remembered in a tier while they lie in another."""
    sketch: bool = False
    """Whether accesses are counted in `s.sketch`, which has then four counters per page that fits."""
    closed: bool = True
    """Whether blocks leave after their children. Otherwise these stay, cannot be reached, and are found again
    when their parent returns."""


QUEUES: dict[str, Queue] = {
    "lru": Queue(lru.victim, lru.used),
    "fifo": Queue(fifo.victim, closed=False),
    "slru": Queue(slru.victim, slru.used),
    "arc": Queue(arc.victim, arc.used, arc.announced, arc.entered, arc.left, ghosts=True),
    "s3fifo": Queue(s3fifo.victim, s3fifo.used, s3fifo.announced, s3fifo.entered, s3fifo.left, ghosts=True),
    "sieve": Queue(sieve.victim, sieve.used, left=sieve.left),
    "tinylfu": Queue(tinylfu.victim, tinylfu.used, accessed=tinylfu.accessed, sketch=True),
}
QUEUE_IDS = {name: k for k, name in enumerate(QUEUES)}

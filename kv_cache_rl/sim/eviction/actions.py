"""Tool calls: what each does to the cache, or the reason why it changes nothing."""

from enum import IntEnum

from kv_cache_rl.core.precision import LADDER
from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.compiled import free, give, take
from kv_cache_rl.sim.eviction.columns import Busy, Counter, Kind, Phase, Place, Slot, Static, Tier
from kv_cache_rl.sim.eviction.entries import link_us, progress, release, units_of

LOWEST = len(LADDER) - 1


class Verb(IntEnum):
    KEEP = 0
    EVICT = 1
    COMPRESS = 2
    SWAP = 3
    UNREADABLE = 4


ALL_VERBS = (1 << Verb.EVICT) | (1 << Verb.COMPRESS) | (1 << Verb.SWAP)
"""A set of verbs: one bit each."""


class Outcome(IntEnum):
    """What became of a call: `OK`, or why it was refused."""

    OK = 0
    UNKNOWN = 1  # no entry ever has this id
    ABSENT = 2  # the entry is not in the cache now
    AT_LOWEST = 3
    IS_ON_CPU = 4
    CPU_FULL = 5
    LINK_BUSY = 6
    SHARED_ONLY = 7  # it holds only shared prefix pages
    TOO_MANY = 8
    NOT_READ = 9


@uncounted
def _evict(c, i):
    dyn, counters = c.dyn, c.counters
    kind, priority = dyn[Slot.KIND, i], c.static[Static.PRIORITY, i]
    if kind == Kind.SYSTEM:
        counters[Counter.RISKY] += 30
    elif kind == Kind.CONTEXT and priority >= 500:
        counters[Counter.RISKY] += 15
    elif kind == Kind.GENERATION and priority >= 700 and progress(c, i) >= 700:
        counters[Counter.RISKY] += 20
    if dyn[Slot.PHASE, i] >= Phase.QUEUED:
        counters[Counter.RECOMPUTED] += dyn[Slot.GENERATED, i]
        dyn[Slot.PHASE, i] = Phase.QUEUED
        dyn[Slot.KIND, i] = Kind.CONTEXT
        dyn[Slot.SPOILED, i] = 0
        dyn[Slot.GENERATED, i] = 0
        dyn[Slot.TODO_US, i] = 0
        dyn[Slot.LOST_US, i] = 0
    release(c, i)


@uncounted
def _compress(c, i):
    dyn = c.dyn
    if dyn[Slot.LEVEL, i] == LOWEST:
        return Outcome.AT_LOWEST
    units = units_of(dyn, i)
    dyn[Slot.LEVEL, i] += 1
    dyn[Slot.BUSY, i] = Busy.PAUSED
    give(c.ledger, Tier.GPU, units - units_of(dyn, i))
    return Outcome.OK


@uncounted
def _swap(c, i):
    dyn, units = c.dyn, units_of(c.dyn, i)
    if units > free(c.ledger, Tier.CPU):
        return Outcome.CPU_FULL
    if c.counters[Counter.LINK_USED] >= c.constants.step_us:
        return Outcome.LINK_BUSY
    c.counters[Counter.LINK_USED] += link_us(c.constants, units)
    give(c.ledger, Tier.GPU, units)
    take(c.ledger, Tier.CPU, units)
    dyn[Slot.PLACE, i] = Place.CPU
    if dyn[Slot.PHASE, i] > Phase.QUEUED:
        dyn[Slot.PHASE, i] = Phase.QUEUED
        dyn[Slot.BUSY, i] = Busy.INTERRUPTED
    return Outcome.OK


@uncounted
def act(c, verb, i):
    """Carries out one tool call on slot `i`; returns its `Outcome`."""
    if verb == Verb.KEEP:
        return Outcome.OK
    if verb == Verb.UNREADABLE:
        return Outcome.NOT_READ
    if i < 0 or i >= c.constants.slots:
        return Outcome.UNKNOWN
    if c.dyn[Slot.PLACE, i] == Place.NOWHERE:
        return Outcome.ABSENT
    if verb == Verb.EVICT:
        _evict(c, i)
        return Outcome.OK
    if c.dyn[Slot.PAGES, i] == 0:
        return Outcome.SHARED_ONLY
    if c.dyn[Slot.PLACE, i] == Place.CPU:
        return Outcome.IS_ON_CPU
    return _compress(c, i) if verb == Verb.COMPRESS else _swap(c, i)

"""Weighing: which (entry, action) pairs free the memory that is short at the least expected cost.

    while memory is short, or a pair is cheap and the wish is not met:
        take the pair with the least cost per unit of memory
        add its call; an entry that was compressed may be taken again, one rung lower

`weigh_value`, `weigh_alike`, `lookahead`, `stability` and the oracle's clairvoyant variants differ only
in what they believe about returns and about the precision that an entry bears. `tuned` also has other
constants (`constants`)."""

from enum import IntEnum

import numpy as np

from kv_cache_rl.core.precision import LADDER, PRECISIONS, WORK_CLASSES
from kv_cache_rl.jit import njit, uncounted
from kv_cache_rl.sim.eviction.actions import ALL_VERBS, LOWEST, Verb
from kv_cache_rl.sim.eviction.columns import UNITS_PER_PAGE, Kind, Place
from kv_cache_rl.sim.eviction.constants import CONSTANTS, WRITTEN
from kv_cache_rl.sim.eviction.observe import Status
from kv_cache_rl.sim.eviction.returns import never_read
from kv_cache_rl.sim.eviction.spec import MAX_CALLS_PER_STEP

LEVELS = len(LADDER)
_LOSS = np.array([[PRECISIONS[name].loss[work] for name in LADDER] for work in WORK_CLASSES])

_WRITTEN = WRITTEN.view(CONSTANTS)


class Priced(IntEnum):
    """Columns of an entry's prices: by what its costs differ from the usual ones."""

    SWAP = 0
    RECOMPUTE = 1


PRICED = len(Priced)

_GONE = -1


@uncounted
def size_of(row):
    """Units that the entry's own pages take."""
    return row.pages * (UNITS_PER_PAGE >> row.level) if row.kind != Kind.SYSTEM else 0


@uncounted
def shortage(head, reserve):
    """Units to free so that the whole queue fits and `reserve` (thousandths of the budget) stays free."""
    return head.need + head.budget * reserve // 1000 - (head.budget - head.used)


@uncounted
def importance(row):
    """How much losing an entry would hurt, 0 to 1: its value, its priority and its shared prefix."""
    kept = 1.0 - row.value / 100.0
    return min(kept * (0.7 + 0.6 * row.priority / 100.0) * (1.0 + 0.02 * min(row.sharers, 10)), 1.0)


@uncounted
def certain(row):
    """The belief that every entry returns."""
    return 1.0


@uncounted
def expect_losses(rows, n, loss):
    """Writes the published loss of each entry's work class at every rung into `loss` ``[n, LEVELS]``."""
    for k in range(n):
        for level in range(LEVELS):
            loss[k, level] = _LOSS[rows[k].work_class, level]


def believing(belief):
    """A compiled function that writes the probability of each entry's return into `chance` ``[n]``:
    what `belief` says of its row, 0 where no later turn reads it."""

    @njit(cache=False)
    def expect_returns(rows, n, chance):
        for k in range(n):
            chance[k] = 0.0 if never_read(rows[k]) else belief(rows[k])

    return expect_returns


@uncounted
def by_hand():
    """The constants chosen by hand, a `CONSTANTS` record."""
    return _WRITTEN[0]


@uncounted
def _may(allowed, verb):
    return (allowed >> verb) & 1 == 1


@uncounted
def _on_cpu(row, share, chance, price, head, cpu_free, w):
    """Cost per unit of memory of evicting an entry from the CPU pool, or infinity where it may stay.

    The dead make room once the pool is short of room, and so does what is worth less than that room.
    """
    if cpu_free >= w.cpu_room * head.link_units:
        return np.inf
    if chance == 0.0:
        return -share * 0.001
    if row.status != Status.IDLE:
        return np.inf
    cost = chance * row.reload * 0.1 * w.recompute * price / share - w.cpu_worth
    return cost * 0.001 if cost < 0.0 else np.inf


@uncounted
def _cheapest(row, level, chance, loss, priced, head, cpu_free, link, w, allowed):
    """Cost per unit of memory of the cheapest allowed action on one entry, or infinity; and its verb."""
    size = row.pages * (UNITS_PER_PAGE >> level)
    if row.kind == Kind.SYSTEM or size == 0:
        return np.inf, Verb.EVICT
    share = size * (1.0 / head.budget)
    may_evict = _may(allowed, Verb.EVICT)
    if row.place == Place.CPU:
        if not may_evict:
            return np.inf, Verb.EVICT
        return _on_cpu(row, share, chance, priced[Priced.RECOMPUTE], head, cpu_free, w), Verb.EVICT
    if chance == 0.0 and may_evict:
        return -share, Verb.EVICT
    best, verb = np.inf, Verb.EVICT
    if level < LOWEST and _may(allowed, Verb.COMPRESS):
        cost = chance * (loss[level + 1] - loss[level])
        if row.status > Status.WAIT:
            cost += w.pause
        if cost / (share / 2) < best:
            best, verb = cost / (share / 2), Verb.COMPRESS
    if row.status != Status.WAIT and size <= cpu_free and link > 0 and _may(allowed, Verb.SWAP):
        cost = chance * w.swap * (w.swap_fixed + size / head.link_units) * priced[Priced.SWAP]
        if row.status != Status.IDLE:
            cost += w.interrupt
        if cost / share < best:
            best, verb = cost / share, Verb.SWAP
    if row.status == Status.IDLE and may_evict:
        cost = chance * row.reload * 0.1 * w.recompute * (1.0 + w.backlog * head.backlog_ms / 4000.0)
        cost *= priced[Priced.RECOMPUTE]
        if cost / share < best:
            best, verb = cost / share, Verb.EVICT
    return best, verb


@uncounted
def choose(rows, n, head, chance, loss, priced, must, wish, cheap, w, allowed, out, costs, notes):
    """`weigh` with factors on prices ``[n, PRICED]``, what is cheap, constants `w` and a set of verbs.

    `costs`, float64 ``[n]``, and `notes`, int64 ``[2, n]``, are room.
    """
    cpu_free, link = head.cpu - head.cpu_used, head.link_units
    level, verbs = notes[0], notes[1]
    for k in range(n):
        level[k] = rows[k].level
        costs[k], verbs[k] = _cheapest(
            rows[k], level[k], chance[k], loss[k], priced[k], head, cpu_free, link, w, allowed
        )
    freed, m = 0, 0
    while m < MAX_CALLS_PER_STEP:
        best, k = np.inf, -1
        for other in range(n):
            if costs[other] < best:
                best, k = costs[other], other
        if k < 0 or (freed >= must and best > 0 and (freed >= wish or best > cheap)):
            break
        verb, moved = verbs[k], 0
        size = rows[k].pages * (UNITS_PER_PAGE >> level[k])
        out[m].verb, out[m].entry = verb, k
        m += 1
        if verb == Verb.COMPRESS:
            freed += size // 2
            level[k] += 1
        else:
            level[k] = _GONE
            costs[k] = np.inf
            if rows[k].place == Place.CPU:
                moved = -size
            else:
                freed += size
                if verb == Verb.SWAP:
                    moved = size
                    link -= size
        cpu_free -= moved
        # Room on the CPU and on the link concerns every entry, a precision only its own.
        for other in range(0 if moved else k, n if moved else k + 1):
            if level[other] != _GONE:
                costs[other], verbs[other] = _cheapest(
                    rows[other], level[other], chance[other], loss[other], priced[other], head,
                    cpu_free, link, w, allowed,
                )  # fmt: skip
    return m


@njit
def weigh(rows, n, head, chance, loss, must, wish, out):
    """Writes the calls that free memory at the least expected cost into `out`; returns how many.

    Args:
        chance: [n] probability that the entry is asked for again.
        loss: [n, LEVELS] probability that its answer is wrong at each rung.
        must: units that the queue needs; wish: units worth freeing only where it is cheap.
    """
    usual, costs, notes = np.ones((n, PRICED)), np.empty(n), np.empty((2, n), np.int64)
    w = by_hand()
    return choose(rows, n, head, chance, loss, usual, must, wish, w.cheap, w, ALL_VERBS, out, costs, notes)

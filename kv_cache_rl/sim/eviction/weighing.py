"""Weighing: which (entry, action) pairs free the memory that is short at the least expected cost.

    while memory is short, or a pair is cheap and the wish is not met:
        take the pair with the least cost per unit of memory
        add its call; an entry that was compressed may be taken again, one rung lower

`value_aware`, `cost_aware`, `lookahead`, `stability` and the oracle's clairvoyant variants differ only
in what they believe about returns and about the precision that an entry bears. The deciders
`value_aware` and `cost_aware` are not the ranks of these names in `kv_cache_rl.policies.rank`: a rank
orders entries, these weigh pairs."""

import numpy as np

from kv_cache_rl.core.precision import LADDER, PRECISIONS, WORK_CLASSES
from kv_cache_rl.jit import njit, uncounted
from kv_cache_rl.sim.eviction.actions import LOWEST, Verb
from kv_cache_rl.sim.eviction.columns import UNITS_PER_PAGE, Kind, Place
from kv_cache_rl.sim.eviction.observe import Status
from kv_cache_rl.sim.eviction.returns import never_read
from kv_cache_rl.sim.eviction.spec import MAX_CALLS_PER_STEP

LEVELS = len(LADDER)
_LOSS = np.array([[PRECISIONS[name].loss[work] for name in LADDER] for work in WORK_CLASSES])

# Costs in failed requests: a swap-in's delay (per size of a window's link), a second of recompute,
# a window not decoded, a running request sent to the CPU.
_SWAP_COST, _RECOMPUTE_COST, _PAUSE_COST, _INTERRUPT_COST = 0.05, 0.08, 0.03, 0.45
_CHEAP = 0.06
"""What one may pay per thousandth of the budget x 1000 for mere headroom."""

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
def _cheapest(row, level, chance, loss, head, cpu_free, link):
    """Cost per unit of memory of the cheapest action on one entry, or infinity; and its verb."""
    size = row.pages * (UNITS_PER_PAGE >> level)
    if row.kind == Kind.SYSTEM or size == 0:
        return np.inf, Verb.EVICT
    share = size * (1.0 / head.budget)
    if row.place == Place.CPU:
        # The dead make room in the CPU pool once it is short of one window's traffic.
        return (-share * 0.001 if chance == 0.0 and cpu_free < head.link_units else np.inf), Verb.EVICT
    if chance == 0.0:
        return -share, Verb.EVICT
    best, verb = np.inf, Verb.EVICT
    if level < LOWEST:
        cost = chance * (loss[level + 1] - loss[level])
        if row.status > Status.WAIT:
            cost += _PAUSE_COST
        if cost / (share / 2) < best:
            best, verb = cost / (share / 2), Verb.COMPRESS
    if row.status != Status.WAIT and size <= cpu_free and link > 0:
        cost = chance * _SWAP_COST * (0.2 + size / head.link_units)
        if row.status != Status.IDLE:
            cost += _INTERRUPT_COST
        if cost / share < best:
            best, verb = cost / share, Verb.SWAP
    if row.status == Status.IDLE:
        cost = chance * row.reload * 0.1 * _RECOMPUTE_COST * (1.0 + head.backlog_ms / 4000.0)
        if cost / share < best:
            best, verb = cost / share, Verb.EVICT
    return best, verb


@uncounted
def choose(rows, n, head, chance, loss, must, wish, out, costs, notes):
    """`weigh` with room to work in: `costs` float64 ``[n]``, `notes` int64 ``[2, n]``."""
    cpu_free, link = head.cpu - head.cpu_used, head.link_units
    level, verbs = notes[0], notes[1]
    for k in range(n):
        level[k] = rows[k].level
        costs[k], verbs[k] = _cheapest(rows[k], level[k], chance[k], loss[k], head, cpu_free, link)
    freed, m = 0, 0
    while m < MAX_CALLS_PER_STEP:
        best, k = np.inf, -1
        for other in range(n):
            if costs[other] < best:
                best, k = costs[other], other
        if k < 0 or (freed >= must and best > 0 and (freed >= wish or best > _CHEAP)):
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
                    rows[other], level[other], chance[other], loss[other], head, cpu_free, link
                )
    return m


@njit
def weigh(rows, n, head, chance, loss, must, wish, out):
    """Writes the calls that free memory at the least expected cost into `out`; returns how many.

    Args:
        chance: [n] probability that the entry is asked for again.
        loss: [n, LEVELS] probability that its answer is wrong at each rung.
        must: units that the queue needs; wish: units worth freeing only where it is cheap.
    """
    return choose(rows, n, head, chance, loss, must, wish, out, np.empty(n), np.empty((2, n), np.int64))

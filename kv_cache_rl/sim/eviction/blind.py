"""Deciders that do not react: they are the floor and the canaries.

Blind ones read nothing but what a verb applies to. Static ones give every class of work one precision,
the same in every window whatever the memory, the queue and the entries do."""

from itertools import product

import numpy as np

from kv_cache_rl.core.precision import LADDER, PRECISIONS, WORK_CLASSES
from kv_cache_rl.jit import njit, uncounted
from kv_cache_rl.sim.eviction.actions import Verb
from kv_cache_rl.sim.eviction.columns import UNITS_PER_PAGE, Kind, Place
from kv_cache_rl.sim.eviction.returns import never_read
from kv_cache_rl.sim.eviction.spec import MAX_CALLS_PER_STEP

_RUNGS = np.array(
    [(*rungs, dead) for rungs in product(range(len(LADDER)), repeat=len(WORK_CLASSES)) for dead in (0, 1)]
)
STATIC = tuple(
    "_".join(
        ("static", *(str(PRECISIONS[LADDER[level]].bits) for level in rungs), *(("dead",) if dead else ()))
    )
    for *rungs, dead in _RUNGS.tolist()
)
"""Names of the static rules: bits of each of `WORK_CLASSES` in turn, and whether the dead are evicted.

    static_4_4_8_16_dead: chat and extraction to 4 bits, code to 8, reasoning left at 16; the dead evicted
"""


@uncounted
def keep(rows, head, out):
    """Changes nothing."""
    out[0].verb, out[0].entry = Verb.KEEP, -1
    return 1


@uncounted
def spam_invalid(rows, head, out):
    """Evicts ids that do not exist, more of them than count."""
    for m in range(len(out)):
        out[m].verb, out[m].entry = Verb.EVICT, -1
    return len(out)


@uncounted
def random(rows, head, out):
    """Three calls drawn by a hash of the window and the table: reproducible without a generator."""
    n = head.rows
    seed = np.uint64(head.left * 7919 + n * 104729)
    for k in range(n):
        seed = seed * np.uint64(6364136223846793005) + np.uint64(rows[k].pages * 31 + rows[k].idle + 1)
    for m in range(3):
        seed = seed * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
        draw = np.int64(seed >> np.uint64(33))
        out[m].verb = Verb.EVICT + draw % 3
        out[m].entry = (draw // 3) % max(n, 1)
    return 3 if n > 0 else 0


def on_everything(verb, lowest=0):
    """The same call on everything that it applies to; compressing stops at rung `lowest`."""

    @njit(cache=False)
    def calls(rows, head, out):
        m = 0
        for k in range(head.rows):
            row = rows[k]
            if m == MAX_CALLS_PER_STEP:
                break
            if verb != Verb.EVICT and (row.place != Place.GPU or row.kind == Kind.SYSTEM or row.pages == 0):
                continue
            if verb == Verb.COMPRESS and row.level >= lowest:
                continue
            out[m].verb, out[m].entry = verb, k
            m += 1
        return m

    return calls


@njit
def static(rows, head, out, rule):
    """The calls of rule `STATIC[rule]`: the dead are evicted, then all entries above their class's
    precision are compressed by one rung, the largest first."""
    target, n, m = _RUNGS[rule], head.rows, 0
    size = np.zeros(n, np.int64)
    for k in range(n):
        row = rows[k]
        gone = target[-1] == 1 and never_read(row)
        if gone and m < MAX_CALLS_PER_STEP:
            out[m].verb, out[m].entry = Verb.EVICT, k
            m += 1
        elif (
            not gone
            and row.place == Place.GPU
            and row.kind != Kind.SYSTEM
            and row.level < target[row.work_class]
        ):
            size[k] = row.pages * (UNITS_PER_PAGE >> row.level)
    while m < MAX_CALLS_PER_STEP and n > 0:
        largest = np.argmax(size)
        if size[largest] == 0:
            break
        out[m].verb, out[m].entry = Verb.COMPRESS, largest
        size[largest] = 0
        m += 1
    return m

"""Blind deciders: they read nothing but what a verb applies to. They are the floor and the canaries."""

import numpy as np

from kv_cache_rl.jit import njit, uncounted
from kv_cache_rl.sim.eviction.actions import Verb
from kv_cache_rl.sim.eviction.columns import Kind, Place
from kv_cache_rl.sim.eviction.spec import MAX_CALLS_PER_STEP


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

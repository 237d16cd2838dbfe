"""Dealing: the same verbs on other entries, drawn at random, to measure what the choice of entry is worth."""

import numpy as np

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.compiled import mixed
from kv_cache_rl.sim.eviction.actions import LOWEST, Verb
from kv_cache_rl.sim.eviction.columns import Kind, Place


@uncounted
def can_take(row, verb):
    """Whether a call applies to an entry: to own pages, on the GPU unless it is evicted."""
    if row.kind == Kind.SYSTEM or row.pages == 0:
        return False
    if verb == Verb.EVICT:
        return True
    return row.place == Place.GPU and (verb == Verb.SWAP or row.level < LOWEST)


@uncounted
def deal(rows, n, out, m, seed):
    """Gives each of the `m` calls in `out` an entry that can take it, each as likely; `seed` says which."""
    for j in range(m):
        count = 0
        for k in range(n):
            count += can_take(rows[k], out[j].verb)
        if count == 0:
            continue
        word = mixed(np.uint64(seed) * np.uint64(32) + np.uint64(j))
        left = np.int64(mixed(word) >> np.uint64(33)) % count
        for k in range(n):
            if can_take(rows[k], out[j].verb):
                if left == 0:
                    out[j].entry = k
                    break
                left -= 1

"""Ranking policies: one number per candidate; the lowest gives way first.

Each is a pure function of one row of candidate columns. Adding a policy is one function here, one line in `RANKS` and one
in `rank`, which dispatches inside compiled loops (Numba cannot look a function up in a dict).
"""

import numpy as np

from kv_cache_rl.core.candidates import AGE, IDLE, INSERTED, PRIORITY, RELOAD_S, SHARERS, SIZE, USES, VALUE
from kv_cache_rl.jit import njit


@njit
def lru(c):
    """Least recently used."""
    return -c[IDLE]


@njit
def fifo(c):
    """First in, first out."""
    return -c[AGE]


@njit
def lfu(c):
    """Least frequently used; recency breaks ties."""
    return c[USES] - c[IDLE] / 4096.0


@njit
def largest_first(c):
    """The entry that frees most."""
    return -c[SIZE]


@njit
def gdsf(c):
    """Greedy-Dual-Size-Frequency: uses x cost / size, ageing by idle time in place of the global inflation value.

    Source: Cherkasova, "Improving WWW proxies performance with Greedy-Dual-Size-Frequency caching policy", HPL-98-69.
    """
    return c[USES] * (c[RELOAD_S] + 0.01) / max(c[SIZE], 1.0) * 1000.0 - c[IDLE]


@njit
def value_aware(c):
    """Safest first by eviction value (block type, hotness, priority, progress); shared prefixes and priority protect."""
    return (
        -c[VALUE] + 0.02 * min(c[SHARERS], 10.0) * (1.0 if c[SIZE] == 0 else 0.0) - 0.01 * min(c[IDLE], 20.0) + 0.1 * c[PRIORITY]
    )


@njit
def cost_aware(c):
    """Cheapest to get back: seconds of recomputation per unit of memory freed."""
    return c[RELOAD_S] / max(c[SIZE], 1.0)


RANKS = {
    "lru": lru,
    "fifo": fifo,
    "lfu": lfu,
    "largest_first": largest_first,
    "gdsf": gdsf,
    "value_aware": value_aware,
    "cost_aware": cost_aware,
}
RANK_IDS = {name: k for k, name in enumerate(RANKS)}


@njit
def rank(policy, c):
    """Key of candidate row `c` under the policy with index `policy` in `RANKS`."""
    if policy == 0:
        return lru(c)
    if policy == 1:
        return fifo(c)
    if policy == 2:
        return lfu(c)
    if policy == 3:
        return largest_first(c)
    if policy == 4:
        return gdsf(c)
    if policy == 5:
        return value_aware(c)
    return cost_aware(c)


def order(name: str, candidates: np.ndarray) -> np.ndarray:
    """Indices of `candidates` [n, columns], first to give way first; ties fall to the earlier inserted, then the lower index."""
    keys = np.array([rank(RANK_IDS[name], row) for row in candidates])
    return np.lexsort((candidates[:, INSERTED], keys))

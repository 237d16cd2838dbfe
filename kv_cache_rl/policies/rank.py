"""Ranking policies: one key per candidate; the lowest is evicted first.

Each is a pure function of one row of candidate columns. Adding a policy is one function here and one line in
`RANKS`.

Most orders do not change while no candidate is touched: a whole cache that ages by one keeps its order. Such
keys are kept in a heap: the row is evaluated once per touch, at clock zero (idle = -last, age = -inserted).
The others are in `DRIFTS`: their key is that of a row at rest plus `drift`, evaluated anew for every decision.
"""

import numpy as np

from kv_cache_rl.core.candidates import (
    AGE,
    DRAW,
    FREQUENCY,
    IDLE,
    INSERTED,
    LAST,
    NOW,
    PRIORITY,
    RECENT_USES,
    REGRET,
    RELOAD_S,
    RETURNS,
    SHARERS,
    SIZE,
    USES,
    VALUE,
)
from kv_cache_rl.jit import folded, uncounted


@uncounted
def lru(c):
    """Least recently used."""
    return -c[IDLE]


@uncounted
def fifo(c):
    """First in, first out."""
    return -c[AGE]


@uncounted
def lfu(c):
    """Least frequently used; recency breaks ties."""
    return c[USES] - c[IDLE] / 4294967296.0


@uncounted
def largest_first(c):
    """The entry that frees most."""
    return -c[SIZE]


@uncounted
def gdsf(c):
    """Greedy-Dual-Size-Frequency: uses x cost / size, ageing by idle time in place of the global inflation
    value.

    Source: Cherkasova, "Improving WWW proxies performance with Greedy-Dual-Size-Frequency caching policy",
    HPL-98-69."""
    return c[USES] * (c[RELOAD_S] + 0.01) / max(c[SIZE], 1.0) * 1000.0 - c[IDLE]


@uncounted
def recency(last, now):
    """Where in history the last access lies, 0 to 1."""
    return last / max(now, 1.0)


@uncounted
def staleness(idle):
    """What idleness takes from the value of keeping, at most 0.2."""
    return -0.01 * min(idle, 20.0)


@uncounted
def value_aware(c):
    """Safest first by eviction value (block type, hotness, priority, progress); shared prefixes and priority
    protect.
    """
    return (
        -c[VALUE]
        + 0.02 * min(c[SHARERS], 10.0) * (1.0 if c[SIZE] == 0 else 0.0)
        + staleness(c[IDLE])
        + 0.1 * c[PRIORITY]
    )


@uncounted
def compute_aware(c):
    """Cheapest to get back: seconds of recomputation per unit of memory freed."""
    return c[RELOAD_S] / max(c[SIZE], 1.0)


@uncounted
def windowed_recency(c):
    """Seldom used among the last few accesses; recency breaks ties.

    Source: kv-hierarchy-lab, as the next four.
    """
    return 1_000_000.0 * c[RECENT_USES] + c[LAST]


@uncounted
def heavy_hitter(c):
    """Seldom used since ever; 10,000 accesses of recency outweigh one use."""
    return 10_000.0 * c[FREQUENCY] + c[LAST]


@uncounted
def predictive(c):
    """Seldom used since ever; 100 accesses of recency outweigh one use.

    Where successors are counted, it also prefetches.
    """
    return 100.0 * c[FREQUENCY] + c[LAST]


@uncounted
def cost_aware(c, per_use=2.0, per_recency=1.0, per_1024=0.4):
    """Seldom used, long ago, large (1,024 units of memory outweigh a fifth of a use)."""
    return per_use * c[FREQUENCY] + recency(per_recency * c[LAST], c[NOW]) - per_1024 * (c[SIZE] / 1024.0)


@uncounted
def regret_aware(c, per_use=1.5, per_recency=1.0):
    """Seldom used, long ago, and whose evictions were not regretted."""
    return per_use * c[FREQUENCY] + recency(per_recency * c[LAST], c[NOW]) + c[REGRET]


@uncounted
def ttl(c):
    """Least likely to be asked for again soon, by the return hazard of entries used as often and idle as
    long.

    Source: Beckmann, Chen, Cidon, "LHD: Improving cache hit rate by maximizing hit density", NSDI 2018.
    """
    return c[RETURNS]


@uncounted
def random(c):
    """Any; the draw is part of the row."""
    return c[DRAW]


RANKS = {
    "lru": lru,
    "fifo": fifo,
    "lfu": lfu,
    "largest_first": largest_first,
    "gdsf": gdsf,
    "value_aware": value_aware,
    "compute_aware": compute_aware,
    "windowed_recency": windowed_recency,
    "heavy_hitter": heavy_hitter,
    "predictive": predictive,
    "cost_aware": cost_aware,
    "regret_aware": regret_aware,
    "ttl": ttl,
    "random": random,
}
RANK_IDS = {name: k for k, name in enumerate(RANKS)}
DRIFTS = ("value_aware", "cost_aware", "regret_aware", "ttl")
"""Ranks whose order changes while nobody touches the candidates."""


_rank = folded(tuple(RANKS.values()))


@uncounted
def rank(policy, c):
    """Key of candidate row `c` under the policy with index `policy` in `RANKS`."""
    return _rank(policy, c)


def order(name: str, candidates: np.ndarray) -> np.ndarray:
    """Indices of `candidates` [n, columns], first to give way first; ties fall to the earlier inserted, then
    the lower index.
    """
    keys = np.array([rank(RANK_IDS[name], row) for row in candidates])
    return np.lexsort((candidates[:, INSERTED], keys))

"""Ranking policies: one key per candidate; the lowest is evicted first.

A rank is a pure function of one candidate row, whose cells `kv_cache_rl.core.candidates.Column` names. Adding
one takes a function here and a line in `RANKS`.

Most orders stand still while no candidate is touched: if every idle time grows by one, their order stays. A
simulator may keep such keys in a heap and evaluate a row once per touch, at rest: clock zero, idle = -last,
age = -inserted. A rank whose order changes with time names its `drift` beside it: what the clock adds to the
key of a row at rest.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kv_cache_rl.core.candidates import Column
from kv_cache_rl.jit import folded, uncounted


@dataclass(frozen=True, slots=True)
class Rank:
    """A ranking policy: its key, and what a simulator that keeps the order has to know of it."""

    key: Callable
    """Candidate row → key; the lowest is evicted first."""
    drift: Callable | None = None
    """(last access, now) → what is added to the key of a row at rest whose last access is set to clock zero.

    None where the order of untouched candidates stands still.
    """
    needs: tuple[Column, ...] = ()
    """The columns that it reads among those that cost a simulator work: RECENT_USES, REGRET, RETURNS, DRAW.

    Those not named may be 0. A key with RETURNS is proportional to it; one with DRAW depends on nothing else.
    """
    inflates: bool = False
    """Whether the clock of IDLE may be the last evicted key instead of time (Greedy-Dual's inflation)."""
    prefetches: bool = False
    """Whether a simulator that counts successors prefetches under this policy."""

    @property
    def stands_still(self) -> bool:
        """Whether the order of candidates changes only when one of them is touched."""
        return self.drift is None and not {Column.RETURNS, Column.DRAW} & set(self.needs)


@uncounted
def lru(c):
    """Least recently used."""
    return -c[Column.IDLE]


@uncounted
def fifo(c):
    """First in, first out."""
    return -c[Column.AGE]


@uncounted
def lfu(c):
    """Least frequently used; recency breaks ties."""
    return c[Column.USES] - c[Column.IDLE] / 4294967296.0


@uncounted
def largest_first(c):
    """The entry that frees most."""
    return -c[Column.SIZE]


@uncounted
def gdsf(c):
    """Greedy-Dual-Size-Frequency: fewest uses x cost / size, aged by idle time.

    Source: Cherkasova, "Improving WWW proxies performance with Greedy-Dual-Size-Frequency caching policy",
    HPL-98-69.
    """
    return c[Column.USES] * (c[Column.RELOAD_S] + 0.01) / max(c[Column.SIZE], 1.0) * 1000.0 - c[Column.IDLE]


@uncounted
def recency(last, now):
    """Where in history the last access lies, 0 to 1."""
    return last / max(now, 1.0)


@uncounted
def staleness(last, now):
    """What idleness takes from the value of keeping, at most 0.2."""
    return -0.01 * min(now - last, 20.0)


@uncounted
def value_aware(c):
    """Safest to lose: by eviction value, staleness and priority; a prefix that others share is protected."""
    return (
        -c[Column.VALUE]
        + 0.02 * min(c[Column.SHARERS], 10.0) * (1.0 if c[Column.SIZE] == 0 else 0.0)
        + staleness(0.0, c[Column.IDLE])
        + 0.1 * c[Column.PRIORITY]
    )


@uncounted
def compute_aware(c):
    """Cheapest to get back: seconds of recomputation per unit of memory freed."""
    return c[Column.RELOAD_S] / max(c[Column.SIZE], 1.0)


@uncounted
def windowed_recency(c):
    """Fewest uses among the last few accesses; recency breaks ties.

    Source: kv-hierarchy-lab, as the next four.
    """
    return 1_000_000.0 * c[Column.RECENT_USES] + c[Column.LAST]


@uncounted
def heavy_hitter(c):
    """Fewest uses ever; 10,000 accesses of recency outweigh one use."""
    return 10_000.0 * c[Column.FREQUENCY] + c[Column.LAST]


@uncounted
def predictive(c):
    """Fewest uses ever; 100 accesses of recency outweigh one use."""
    return 100.0 * c[Column.FREQUENCY] + c[Column.LAST]


@uncounted
def cost_aware(c, per_use=2.0, per_recency=1.0, per_1024=0.4):
    """Few uses, long ago, large (1,024 units of memory outweigh a fifth of a use)."""
    age = recency(per_recency * c[Column.LAST], c[Column.NOW])
    return per_use * c[Column.FREQUENCY] + age - per_1024 * (c[Column.SIZE] / 1024.0)


@uncounted
def regret_aware(c, per_use=1.5, per_recency=1.0):
    """Few uses, long ago, and no regretted evictions."""
    age = recency(per_recency * c[Column.LAST], c[Column.NOW])
    return per_use * c[Column.FREQUENCY] + age + c[Column.REGRET]


@uncounted
def ttl(c):
    """Least likely to be asked for again soon: the return hazard of entries used as often and idle as long.

    Source: Beckmann, Chen, Cidon, "LHD: Improving cache hit rate by maximizing hit density", NSDI 2018.
    """
    return c[Column.RETURNS]


@uncounted
def random(c):
    """Any entry; the draw is part of the row."""
    return c[Column.DRAW]


RANKS: dict[str, Rank] = {
    "lru": Rank(lru),
    "fifo": Rank(fifo),
    "lfu": Rank(lfu),
    "largest_first": Rank(largest_first),
    "gdsf": Rank(gdsf, inflates=True),
    "value_aware": Rank(value_aware, drift=staleness),
    "compute_aware": Rank(compute_aware),
    "windowed_recency": Rank(windowed_recency, needs=(Column.RECENT_USES,)),
    "heavy_hitter": Rank(heavy_hitter),
    "predictive": Rank(predictive, prefetches=True),
    "cost_aware": Rank(cost_aware, drift=recency),
    "regret_aware": Rank(regret_aware, drift=recency, needs=(Column.REGRET,)),
    "ttl": Rank(ttl, needs=(Column.RETURNS,)),
    "random": Rank(random, needs=(Column.DRAW,)),
}
RANK_IDS = {name: k for k, name in enumerate(RANKS)}

_rank = folded(tuple(policy.key for policy in RANKS.values()))


@uncounted
def rank(policy, c):
    """Key of candidate row `c` under the policy with index `policy` in `RANKS`."""
    return _rank(policy, c)


@uncounted
def _none(last, now):
    return 0.0


_drift = folded(tuple(policy.drift or _none for policy in RANKS.values()))


@uncounted
def drift(policy, last, now):
    """What the clock adds to the key of a row at rest, under the policy with index `policy` in `RANKS`."""
    return _drift(policy, last, now)


def order(name: str, candidates: np.ndarray) -> np.ndarray:
    """Indices of `candidates` [n, columns], the first to evict first.

    Equal keys: the earlier inserted first, then the lower index.
    """
    keys = np.array([rank(RANK_IDS[name], row) for row in candidates])
    return np.lexsort((candidates[:, Column.INSERTED], keys))

"""Ranking policies: one key per candidate; the lowest is evicted first.

A rank is a pure function of one candidate row, whose cells `kv_cache_rl.core.candidates.Column` names. Adding
one takes a function here and a line in `RANKS`.

Most orders stand still while no candidate is touched: if every idle time grows by one, their order stays. A
simulator may keep such keys in a heap and evaluate a row once per touch, at rest: clock zero, idle = -last,
age = -inserted. A rank whose order changes with time names its `drift` beside it: what the clock adds to the
key of a row at rest. If it also says how long two rows keep their order (`holds`), a simulator compares them
again only then, and decides in O(log n) instead of reading every row.
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
    holds: Callable | None = None
    """(key a, last access a, key b, last access b, now) → a clock, later than now, before which two rows that
    nothing touches keep the order of their keys at rest plus drift, ties and rounding included.

    Such a clock may be too early, never too late. None: nothing is known.
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

    @property
    def foretells(self) -> bool:
        """Whether it is known when the order of two untouched candidates may change next.

        A key in proportion to RETURNS changes when an idle time passes into the next bin.
        """
        return self.holds is not None or Column.RETURNS in self.needs


FOREVER = np.inf
"""The clock before which an order holds that never changes."""


@uncounted
def rounding(one, other, drifted):
    """More than rounding takes from the difference of two keys with their drifts, at most `drifted` each."""
    return 2.0**-49 * (abs(one) + abs(other) + drifted)


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
def recency_holds(key_a, last_a, key_b, last_b, now):
    """The difference, keys + accesses / now, moves towards that of the keys: until it comes close to zero."""
    keys, accesses = key_a - key_b, last_a - last_b
    if keys == 0.0 and accesses == 0.0:
        return FOREVER
    gap, unsure = keys + accesses / max(now, 1.0), rounding(key_a, key_b, 1.0)
    if gap < 0.0:
        gap, keys, accesses = -gap, -keys, -accesses
    if not gap > unsure:
        return now + 1.0
    return FOREVER if keys >= unsure else max(np.floor(accesses / (unsure - keys)), now + 1.0)


@uncounted
def staleness(last, now):
    """What idleness takes from the value of keeping, at most 0.2."""
    return -0.01 * min(now - last, 20.0)


@uncounted
def staleness_holds(key_a, last_a, key_b, last_b, now):
    """The lower key stands still 20 after its last access, and the higher one falls on until its own."""
    if now - max(last_a, last_b) >= 20.0:
        return FOREVER
    gap = (key_b + staleness(last_b, now)) - (key_a + staleness(last_a, now))
    low, high = last_a, last_b
    if gap < 0.0:
        gap, low, high = -gap, last_b, last_a
    gap -= rounding(key_a, key_b, 1.0)
    if not gap > 0.0:
        return now + 1.0
    start = max(now, low + 20.0)
    if gap > 0.01 * (high + 20.0 - start):
        return FOREVER
    return max(start + np.floor(gap / 0.01), now + 1.0)


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
    "value_aware": Rank(value_aware, drift=staleness, holds=staleness_holds),
    "compute_aware": Rank(compute_aware),
    "windowed_recency": Rank(windowed_recency, needs=(Column.RECENT_USES,)),
    "heavy_hitter": Rank(heavy_hitter),
    "predictive": Rank(predictive, prefetches=True),
    "cost_aware": Rank(cost_aware, drift=recency, holds=recency_holds),
    "regret_aware": Rank(regret_aware, drift=recency, holds=recency_holds, needs=(Column.REGRET,)),
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


@uncounted
def _at_once(key_a, last_a, key_b, last_b, now):
    return now + 1.0


_holds = folded(tuple(policy.holds or _at_once for policy in RANKS.values()))


@uncounted
def holds(policy, key_a, last_a, key_b, last_b, now):
    """A clock before which two rows at rest keep their order, under the policy with index `policy`."""
    return _holds(policy, key_a, last_a, key_b, last_b, now)


def order(name: str, candidates: np.ndarray) -> np.ndarray:
    """Indices of `candidates` [n, columns], the first to evict first.

    Equal keys: the earlier inserted first, then the lower index.
    """
    keys = np.array([rank(RANK_IDS[name], row) for row in candidates])
    return np.lexsort((candidates[:, Column.INSERTED], keys))

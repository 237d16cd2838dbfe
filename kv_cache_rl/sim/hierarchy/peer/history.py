"""What the six policies of kv-hierarchy-lab remember, as candidate columns for the shared ranks.

Source: kv-hierarchy-lab at commit 222356d. History is global, never forgotten and blind to tiers.
"""

from collections import Counter, defaultdict, deque

import numpy as np

from kv_cache_rl.core.candidates import CANDIDATE_COLS, Column
from kv_cache_rl.jit import njit
from kv_cache_rl.policies.rank import RANK_IDS, cost_aware, rank, regret_aware
from kv_cache_rl.sim.hierarchy.spec import HierarchyError

PEER_POLICIES: dict[str, dict[str, float]] = {
    "lru": {},
    "windowed_recency": {"window_size": 32},
    "heavy_hitter": {},
    "cost_aware": {"freq_weight": 2.0, "recency_weight": 1.0, "size_penalty": 0.4},
    "predictive": {"min_confidence": 2, "max_prefetches": 2},
    "regret_aware": {
        "regret_horizon": 24,
        "regret_weight": 6.0,
        "freq_weight": 1.5,
        "recency_weight": 1.0,
        "decay": 0.98,
    },
}
"""Policy -> its parameters and their defaults, under the peer's names."""

COST_AWARE, REGRET_AWARE = RANK_IDS["cost_aware"], RANK_IDS["regret_aware"]
"""The two ranks that take the peer's weights as arguments; the others have none."""


def peer_parameters(policy: str, changes: dict[str, float] | None = None) -> dict[str, float]:
    """The policy's defaults with `changes` put over them.

    Raises:
        HierarchyError: for a policy the peer does not have, or a parameter that policy does not take.
    """
    if policy not in PEER_POLICIES:
        raise HierarchyError(
            f"kv-hierarchy-lab has no policy {policy!r}; use one of {', '.join(PEER_POLICIES)}"
        )
    defaults, changes = PEER_POLICIES[policy], changes or {}
    for name in changes:
        if name not in defaults:
            raise HierarchyError(
                f"{policy} takes no parameter {name!r}; it takes {', '.join(defaults) or 'none'}"
            )
    return defaults | changes


@njit
def lowest(policy, table, candidates, weights, now):
    """The first of `candidates` [n] with the lowest key; brings the clock columns of their rows in `table` up
    to date.
    """
    best, least = candidates[0], np.inf
    for page in candidates:
        row = table[page]
        row[Column.NOW] = now
        row[Column.IDLE] = now - row[Column.LAST]
        if policy == COST_AWARE:
            key = cost_aware(row, weights[0], weights[1], weights[2])
        elif policy == REGRET_AWARE:
            key = regret_aware(row, weights[0], weights[1])
        else:
            key = rank(policy, row)
        if key < least:
            best, least = page, key
    return best


class History:
    """One policy's memory of one run: hooks write the columns, `victim` and `expected` read them."""

    def __init__(self, policy: str, parameters: dict[str, float], page_bytes: list[int]) -> None:
        self.policy = policy
        self.parameters = parameters
        self.table = np.zeros((len(page_bytes), CANDIDATE_COLS))
        self.table[:, Column.SIZE] = page_bytes
        self.table[:, Column.LAST] = -1.0
        self.weights = np.array(
            [parameters.get(name, 0.0) for name in ("freq_weight", "recency_weight", "size_penalty")]
        )
        self.recent: deque[int] = deque()
        self.successors: defaultdict[int, Counter[int]] = defaultdict(Counter)
        self.previous = -1
        self.evicted: dict[int, int] = {}
        self.regret: dict[int, float] = {}

    def on_access(self, page: int, step: int) -> None:
        """Counts a use, and what else this policy learns from one."""
        self.table[page, Column.LAST] = step
        self.table[page, Column.FREQUENCY] += 1.0
        if self.policy == "windowed_recency":
            self._slide(page)
        elif self.policy == "predictive":
            if self.previous >= 0:
                self.successors[self.previous][page] += 1
            self.previous = page
        elif self.policy == "regret_aware":
            self._regret_return(page, step)

    def on_insert(self, page: int, step: int) -> None:
        """Cold inserts, promotions, prefetches: uses for the peer's lru, nothing for the other policies."""
        if self.policy == "lru":
            self.table[page, Column.LAST] = step

    def on_evict(self, page: int, step: int) -> None:
        """Leaving any tier; a deeper demotion overwrites the step of the first."""
        if self.policy == "regret_aware":
            self.evicted[page] = step

    def victim(self, candidates: dict[int, int], step: int) -> int:
        """The page that leaves: the lowest rank, among equals the first that came into this tier."""
        pages = np.fromiter(candidates, np.int64, len(candidates))
        return int(lowest(RANK_IDS[self.policy], self.table, pages, self.weights, step))

    def expected(self, page: int) -> list[int]:
        """Pages to prefetch after an access to `page`: its usual successors, most frequent first, among
        equals first seen.
        """
        if self.policy != "predictive" or page not in self.successors:
            return []
        likely = self.successors[page].most_common(int(self.parameters["max_prefetches"]))
        return [successor for successor, count in likely if count >= self.parameters["min_confidence"]]

    def _slide(self, page: int) -> None:
        self.recent.append(page)
        self.table[page, Column.RECENT_USES] += 1.0
        if len(self.recent) > self.parameters["window_size"]:
            self.table[self.recent.popleft(), Column.RECENT_USES] -= 1.0

    def _regret_return(self, page: int, step: int) -> None:
        horizon = self.parameters["regret_horizon"]
        if page in self.regret:
            self.regret[page] *= self.parameters["decay"]
        evicted = self.evicted.pop(page, None)
        if evicted is not None and (gap := step - evicted) <= horizon:
            self.regret[page] = self.regret.get(page, 0.0) + (horizon - gap + 1) / horizon
        if page in self.regret:
            self.table[page, Column.REGRET] = self.parameters["regret_weight"] * self.regret[page]

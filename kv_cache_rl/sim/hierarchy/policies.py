"""The names of all policies of the lab, and how the order of each is kept."""

from kv_cache_rl.policies.rank import RANKS
from kv_cache_rl.sim.hierarchy.queues import QUEUES
from kv_cache_rl.sim.hierarchy.state import Order

POLICIES = tuple(dict.fromkeys((*RANKS, *QUEUES)))
"""Ranks and queues; `lru` and `fifo` are both, and their order is kept as a queue."""


def order_of(policy: str) -> Order:
    """How the order of a policy is kept."""
    if policy in QUEUES:
        return Order.LISTED
    return Order.HEAPED if RANKS[policy].stands_still else Order.SCANNED

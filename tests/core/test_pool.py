"""The pool ledger against a dict that remembers the units of each holder."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kv_cache_rl.core import pool

CAPACITY = (40, 15)


class PoolMachine(RuleBasedStateMachine):
    """Holders come and go, also beyond the capacity."""

    def __init__(self):
        super().__init__()
        self.ledger = np.array([[capacity, 0] for capacity in CAPACITY])
        self.held: dict[int, tuple[int, int]] = {}
        self.count = 0

    @rule(tier=st.sampled_from([0, 1]), units=st.integers(0, 30))
    def a_holder_takes(self, tier, units):
        pool.take(self.ledger, tier, units)
        self.held[self.count] = (tier, units)
        self.count += 1

    @rule(pick=st.integers(0, 1000))
    def a_holder_leaves(self, pick):
        if self.held:
            tier, units = self.held.pop(sorted(self.held)[pick % len(self.held)])
            pool.give(self.ledger, tier, units)

    @rule(pick=st.integers(0, 1000))
    def a_holder_moves(self, pick):
        if self.held:
            holder = sorted(self.held)[pick % len(self.held)]
            tier, units = self.held[holder]
            pool.give(self.ledger, tier, units)
            pool.take(self.ledger, 1 - tier, units)
            self.held[holder] = (1 - tier, units)

    @invariant()
    def the_books_balance(self):
        held = [sum(units for tier, units in self.held.values() if tier == t) for t in (0, 1)]
        pool.check(self.ledger, np.array(held))
        for tier in (0, 1):
            assert pool.free(self.ledger, tier) == CAPACITY[tier] - held[tier]
            assert self.ledger[tier, pool.CAPACITY] == CAPACITY[tier]


PoolMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestPool = PoolMachine.TestCase


@pytest.mark.parametrize(
    ("used", "held"), [([5, 0], [4, 0]), ([5, 0], [5, 1]), ([0, 0], [1, 0]), ([-1, 0], [-1, 0])]
)
def test_books_that_do_not_balance_raise_with_both_numbers(used, held):
    ledger = np.array([[10, used[0]], [10, used[1]]])
    with pytest.raises(
        pool.LedgerError, match=r"tier [01]: the ledger books -?\d+ units in use, its holders hold -?\d+"
    ):
        pool.check(ledger, np.array(held))

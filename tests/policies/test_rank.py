"""Every ranking policy against a few lines of plain Python."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_cache_rl.core.candidates import (
    AGE,
    CANDIDATE_COLS,
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
    TOKENS,
    USES,
    VALUE,
)
from kv_cache_rl.policies.rank import RANK_IDS, RANKS, order, rank

REFERENCE = {
    "lru": lambda c: -c[IDLE],
    "fifo": lambda c: -c[AGE],
    "lfu": lambda c: (c[USES], -c[IDLE]),
    "largest_first": lambda c: -c[SIZE],
    "gdsf": lambda c: 1000 * c[USES] * (c[RELOAD_S] + 0.01) / max(c[SIZE], 1) - c[IDLE],
    "value_aware": lambda c: (
        0.1 * c[PRIORITY] + (0.02 * min(c[SHARERS], 10) if c[SIZE] == 0 else 0) - c[VALUE] - min(c[IDLE], 20) / 100
    ),
    "compute_aware": lambda c: c[RELOAD_S] / max(c[SIZE], 1),
    "windowed_recency": lambda c: (c[RECENT_USES], c[LAST]),
    "heavy_hitter": lambda c: 10_000 * c[FREQUENCY] + c[LAST],
    "predictive": lambda c: 100 * c[FREQUENCY] + c[LAST],
    "cost_aware": lambda c: 2 * c[FREQUENCY] + c[LAST] / c[NOW] - 0.4 * c[SIZE] / 1024,
    "regret_aware": lambda c: 1.5 * c[FREQUENCY] + c[LAST] / c[NOW] + c[REGRET],
    "ttl": lambda c: c[RETURNS],
    "random": lambda c: c[DRAW],
}  # fmt: skip


def table(rows):
    """Candidates with whole or clearly distinct numbers, so that rounding never decides."""
    out = np.zeros((len(rows), CANDIDATE_COLS))
    for k, (size, idle, age, uses, priority, reload_s, sharers, value) in enumerate(rows):
        out[k, [SIZE, IDLE, AGE, USES, PRIORITY, RELOAD_S, SHARERS, VALUE, INSERTED]] = (
            size, idle, age, uses, priority / 8, reload_s / 4, sharers, value / 8, k,
        )  # fmt: skip
        out[k, TOKENS] = 32 * size
        out[k, [LAST, NOW, FREQUENCY, RECENT_USES, REGRET, RETURNS, DRAW]] = (
            64 - idle, 64, uses + age, uses, priority / 4, value / 8, reload_s / 64,
        )  # fmt: skip
    return out


rows = st.lists(
    st.tuples(st.integers(0, 4000), st.integers(0, 30), st.integers(0, 40), st.integers(0, 9), st.integers(0, 8),
              st.integers(0, 40), st.integers(0, 12), st.integers(0, 8)),
    min_size=1, max_size=12,
)  # fmt: skip


@pytest.mark.parametrize("name", RANKS)
@given(rows=rows)
@settings(max_examples=40, deadline=None)
def test_a_policy_orders_candidates_as_its_ten_line_reference(name, rows):
    candidates = table(rows)
    keys = {k: REFERENCE[name](c) for k, c in enumerate(candidates)}
    got = [int(k) for k in order(name, candidates)]
    assert sorted(got) == list(range(len(rows)))
    for a, b in pairwise(got):
        if isinstance(keys[a], tuple):
            assert keys[a] <= keys[b]
        else:
            assert keys[a] <= keys[b] + 1e-9


@pytest.mark.parametrize("name", RANKS)
def test_the_compiled_dispatch_calls_the_policy_of_that_name(name):
    rng = np.random.default_rng(5)
    for row in rng.uniform(0, 9, (20, CANDIDATE_COLS)):
        assert rank(RANK_IDS[name], row) == RANKS[name](row)


@pytest.mark.parametrize("name", RANKS)
def test_a_tie_falls_to_whoever_was_inserted_first(name):
    candidates = table([(8, 1, 1, 1, 4, 4, 0, 4)] * 4)
    candidates[:, INSERTED] = [3, 1, 2, 0]
    assert order(name, candidates).tolist() == [3, 1, 2, 0]


@pytest.mark.parametrize("name", RANKS)
def test_a_policy_does_not_change_the_candidates(name):
    candidates = table([(8, 1, 2, 3, 4, 5, 6, 7), (1, 9, 9, 0, 1, 1, 0, 0)])
    before = candidates.copy()
    order(name, candidates)
    assert np.array_equal(candidates, before)


def test_every_policy_has_a_reference_here():
    assert set(REFERENCE) == set(RANKS) and list(RANK_IDS.values()) == list(range(len(RANKS)))

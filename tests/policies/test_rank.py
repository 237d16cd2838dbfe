"""Every ranking policy against a few lines of plain Python."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_cache_rl.core.candidates import CANDIDATE_COLS, Column
from kv_cache_rl.policies.rank import RANK_IDS, RANKS, drift, order, rank

REFERENCE = {
    "lru": lambda c: -c[Column.IDLE],
    "fifo": lambda c: -c[Column.AGE],
    "lfu": lambda c: (c[Column.USES], -c[Column.IDLE]),
    "largest_first": lambda c: -c[Column.SIZE],
    "gdsf": lambda c: (
        1000 * c[Column.USES] * (c[Column.RELOAD_S] + 0.01) / max(c[Column.SIZE], 1) - c[Column.IDLE]
    ),
    "value_aware": lambda c: (
        0.1 * c[Column.PRIORITY] - c[Column.VALUE] - min(c[Column.IDLE], 20) / 100
        + (0.02 * min(c[Column.SHARERS], 10) if c[Column.SIZE] == 0 else 0)
    ),
    "compute_aware": lambda c: c[Column.RELOAD_S] / max(c[Column.SIZE], 1),
    "windowed_recency": lambda c: (c[Column.RECENT_USES], c[Column.LAST]),
    "heavy_hitter": lambda c: 10_000 * c[Column.FREQUENCY] + c[Column.LAST],
    "predictive": lambda c: 100 * c[Column.FREQUENCY] + c[Column.LAST],
    "cost_aware": lambda c: (
        2 * c[Column.FREQUENCY] + c[Column.LAST] / c[Column.NOW] - 0.4 * c[Column.SIZE] / 1024
    ),
    "regret_aware": lambda c: 1.5 * c[Column.FREQUENCY] + c[Column.LAST] / c[Column.NOW] + c[Column.REGRET],
    "ttl": lambda c: c[Column.RETURNS],
    "random": lambda c: c[Column.DRAW],
}  # fmt: skip


def table(rows):
    """Candidates with whole or clearly distinct numbers, so that rounding never decides."""
    out = np.zeros((len(rows), CANDIDATE_COLS))
    for k, (size, idle, age, uses, priority, reload_s, sharers, value) in enumerate(rows):
        known = {
            Column.SIZE: size, Column.IDLE: idle, Column.AGE: age, Column.USES: uses,
            Column.PRIORITY: priority / 8, Column.RELOAD_S: reload_s / 4, Column.SHARERS: sharers,
            Column.VALUE: value / 8, Column.INSERTED: k, Column.TOKENS: 32 * size, Column.LAST: 64 - idle,
            Column.NOW: 64, Column.FREQUENCY: uses + age, Column.RECENT_USES: uses,
            Column.REGRET: priority / 4, Column.RETURNS: value / 8, Column.DRAW: reload_s / 64,
        }  # fmt: skip
        out[k, list(known)] = list(known.values())
    return out


rows = st.lists(
    st.tuples(
        st.integers(0, 4000),
        st.integers(0, 30),
        st.integers(0, 40),
        st.integers(0, 9),
        st.integers(0, 8),
        st.integers(0, 40),
        st.integers(0, 12),
        st.integers(0, 8),
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize("name", REFERENCE)
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
        assert rank(RANK_IDS[name], row) == RANKS[name].key(row)


@pytest.mark.parametrize("name", RANKS)
def test_a_tie_falls_to_the_one_inserted_first(name):
    candidates = table([(8, 1, 1, 1, 4, 4, 0, 4)] * 4)
    candidates[:, Column.INSERTED] = [3, 1, 2, 0]
    assert order(name, candidates).tolist() == [3, 1, 2, 0]


@pytest.mark.parametrize("name", RANKS)
def test_a_policy_does_not_change_the_candidates(name):
    candidates = table([(8, 1, 2, 3, 4, 5, 6, 7), (1, 9, 9, 0, 1, 1, 0, 0)])
    before = candidates.copy()
    order(name, candidates)
    assert np.array_equal(candidates, before)


@pytest.mark.parametrize("name", RANKS)
@given(rows=rows)
@settings(max_examples=40, deadline=None)
def test_a_drift_is_what_time_adds_to_the_key_of_a_row_at_rest(name, rows):
    """At rest the last access is at clock zero; a rank whose order stands still has no drift."""
    policy = RANKS[name]
    if not policy.stands_still and policy.drift is None:
        return
    now = table(rows)
    rest = now.copy()
    if policy.drift is None:
        rest[:, Column.NOW] = 1
        rest[:, Column.IDLE] = -rest[:, Column.LAST]
        rest[:, Column.AGE] -= 64
    else:
        rest[:, [Column.LAST, Column.IDLE]], rest[:, Column.NOW] = 0, 1
    steps = [
        policy.key(a) - policy.key(b) - drift(RANK_IDS[name], a[Column.LAST], a[Column.NOW])
        for a, b in zip(now, rest, strict=True)
    ]
    assert steps == pytest.approx([steps[0]] * len(steps), abs=1e-6)


def test_the_ranks_are_numbered_as_they_stand_and_the_references_are_of_ranks():
    assert set(REFERENCE) <= set(RANKS) and list(RANK_IDS.values()) == list(range(len(RANKS)))

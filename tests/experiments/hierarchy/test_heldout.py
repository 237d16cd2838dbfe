"""The held-out protocol: steep capacities, clusters that stay together, intervals that cover, tuning on the
other half.
"""

import numpy as np
import pytest

from kv_cache_rl.experiments.hierarchy import heldout
from kv_cache_rl.experiments.hierarchy.heldout import clusters, halves, held_out, steep_capacities
from kv_cache_rl.intervals import draws, resampled_difference, resampled_rate, totals
from kv_cache_rl.sim.hierarchy.curves.runs import Curve, lru_curve
from kv_cache_rl.sim.hierarchy.generate import zipf
from kv_cache_rl.sim.hierarchy.spec import HierarchyError
from kv_cache_rl.sim.hierarchy.traces.trace import Trace, last_of, pages


def sessions(paths, tokens=None):
    """A prefix-tree trace of requests (sequence, runs), one a second."""
    runs = [run for _, own in paths for run in own]
    sequence = np.array([number for number, _ in paths])
    return Trace(
        name="sessions",
        chained=True,
        block_tokens=64,
        time_s=np.arange(len(paths), dtype=np.float64),
        sequence=sequence,
        first_run=np.concatenate([[0], np.cumsum([len(own) for _, own in paths])]),
        run_start=np.array([start for start, _ in runs]),
        run_length=np.array([length for _, length in runs]),
        blocks=max(start + length for start, length in runs),
        page_bytes=0,
        input_tokens=np.array(tokens if tokens else [0] * len(paths)),
        output_tokens=np.zeros(len(paths), np.int64),
        ends=last_of(sequence),
    )


def many_sessions(count=40, requests=6, seed=0):
    """Sessions by turns, each of which grows its own path by a few blocks a request."""
    rng = np.random.default_rng(seed)
    grown = {number: 10 + int(rng.integers(20)) for number in range(count)}
    paths = []
    for _ in range(requests):
        for number in rng.permutation(count).tolist():
            paths.append((number, [(number * 200, grown[number])]))
            grown[number] += 1 + int(rng.integers(15))
    return sessions(paths)


def test_steep_capacities_are_the_smallest_that_reach_their_level():
    curve = lru_curve(zipf(300, 5000, 0.9, seed=1))
    top = curve.hit_rate[-1]
    for steep in steep_capacities(curve):
        assert curve.at(steep.capacity) >= steep.level * top > curve.at(steep.capacity - 1)
        assert steep.per_doubling == curve.at(2 * steep.capacity) - curve.at(steep.capacity)


def test_a_trace_without_reuse_has_no_steep_part():
    with pytest.raises(HierarchyError, match="no block is used twice"):
        steep_capacities(Curve("lru", np.arange(4), np.zeros(4), 3))


def test_sessions_that_share_a_block_are_one_cluster_but_not_through_a_prompt_of_all():
    prompt = (0, 2)
    own = {number: (10 * (number + 1), 3) for number in range(30)}
    paths = [(number, [prompt, own[number]]) for number in range(30)]
    paths += [(30, [prompt, own[4], (500, 2)])]
    found = clusters(sessions(paths, tokens=list(range(100, 131))))
    assert found[30] == found[4]
    assert len(set(found.tolist())) == 30


def test_sessions_whose_first_requests_are_equally_long_are_one_cluster():
    paths = [(number, [(number * 100, 3 + turn)]) for turn in range(3) for number in range(4)]
    tokens = [200, 300, 200, 400, 260, 330, 260, 430, 320, 390, 320, 490]
    assert clusters(sessions(paths, tokens)).tolist() == [0, 1, 0, 2]


def test_one_request_of_equal_length_joins_no_cluster():
    assert clusters(sessions([(0, [(0, 3)]), (1, [(5, 3)])], tokens=[200, 200])).tolist() == [0, 1]


def test_halves_hold_whole_clusters_and_about_as_many_accesses():
    trace = many_sessions()
    cluster = np.arange(40) // 2
    tuned, held = halves(trace, cluster, seed=3)
    assert (tuned ^ held).all()
    of = cluster[trace.sequence]
    assert not set(of[tuned]) & set(of[held])
    share = trace.lengths[tuned].sum() / trace.accesses
    assert 0.4 < share < 0.6
    assert not np.array_equal(tuned, halves(trace, cluster, seed=4)[0])


def test_one_cluster_cannot_be_halved():
    with pytest.raises(HierarchyError, match="there is nothing to hold out"):
        halves(pages("one", np.arange(5)), np.zeros(1, np.int64), 0)


def test_a_policy_against_itself_differs_by_nothing_in_every_resample():
    hits, accesses = np.array([3.0, 8.0, 1.0]), np.array([9.0, 10.0, 2.0])
    found = resampled_difference([draws(3)], [hits], [hits], [accesses])
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)


def test_the_interval_covers_the_true_rate_about_as_often_as_it_says():
    rng = np.random.default_rng(5)
    covered = 0
    for trial in range(200):
        accesses = rng.integers(50, 150, 60)
        hits = rng.binomial(accesses, np.clip(rng.normal(0.6, 0.1, 60), 0, 1))
        found = resampled_rate([draws(60, 500, trial)], [hits], [accesses])
        covered += found.low <= 0.6 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_pairing_makes_the_interval_of_a_difference_narrower():
    rng = np.random.default_rng(6)
    accesses = np.full(50, 100)
    ours = rng.integers(10, 90, 50)
    paired = resampled_difference([draws(50)], [ours + 2], [ours], [accesses])
    alone = resampled_rate([draws(50)], [ours], [accesses])
    assert paired.high - paired.low < 0.01 < alone.high - alone.low
    assert paired.mean == pytest.approx(0.02)


def test_a_single_cluster_has_no_interval():
    found = resampled_rate([draws(1)], [np.array([1.0])], [np.array([2.0])])
    assert (found.mean, found.low, found.high) == (0.5, None, None)


def test_totals_go_by_cluster():
    assert totals(np.array([7, 3, 7]), np.array([1, 2, 3])).tolist() == [2, 4]


def test_held_out_rows_are_repeatable_and_within_the_bound():
    trace = many_sessions()
    found, again = (held_out(trace, ["lru", "regret_aware"], seeds=(0, 1), resamples=200) for _ in range(2))
    assert [row.to_json() for row in found["rows"]] == [row.to_json() for row in again["rows"]]
    assert found["clusters"] == found["sequences"] == 40
    for row in found["rows"]:
        assert row.hit_rate.low <= row.hit_rate.mean <= row.hit_rate.high
        assert row.regret_to_bound >= 0
        assert row.bound == "prefix-closed MIN with bypass"
        if row.policy == "lru":
            assert row.against_lru.to_json() == {"n": 40, "mean": 0.0, "low": 0.0, "high": 0.0}
        else:
            assert all("regret" in tuning for tuning in row.tuning)


def test_a_policy_is_tuned_on_the_other_half_only(monkeypatch):
    trace, tried = many_sessions(), []

    def spy(part, scenario, policy, seed=0, **tuning):
        tried.append((len(tuning) > 0, part.requests, part.sequence.max()))
        return real(part, scenario, policy, seed, **tuning)

    real = heldout.run
    monkeypatch.setattr(heldout, "run", spy)
    held_out(trace, ["windowed_recency"], levels=(0.5,), seeds=(2,), resamples=100)
    tuned, held = halves(trace, clusters(trace), 2)
    # lru on the held-out half; then three windows on the tuning half, and the best of them on the held-out
    # one
    assert [requests for _, requests, _ in tried] == [
        held.sum(),
        tuned.sum(),
        tuned.sum(),
        tuned.sum(),
        held.sum(),
    ]

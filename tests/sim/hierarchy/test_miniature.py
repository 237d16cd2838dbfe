"""A policy in a small cache over a sample of the blocks hits about as often as in the large one over all."""

import numpy as np
import pytest
from block_replay import paths_of, trace_of
from conversations import texts
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kv_cache_rl.sim.hierarchy.curves.miniature import estimated, samples, thinned
from kv_cache_rl.sim.hierarchy.engine import run
from kv_cache_rl.sim.hierarchy.generate import zipf
from kv_cache_rl.sim.hierarchy.spec import HierarchyError, one_tier
from kv_cache_rl.sim.hierarchy.traces.trace import ROOT, expand, parents
from kv_cache_rl.sim.hierarchy.traces.writes import decoded

few = settings(max_examples=20, deadline=None)


def kept(path, inside, number):
    return [int(number[block]) for block in path if inside[block]]


@given(seed=st.integers(0, 2**32), share=st.floats(0.1, 0.9))
@few
def test_a_sample_has_of_every_path_the_blocks_that_are_in_it(seed, share):
    trace = decoded(texts(seed).trace())
    assume(trace.writes is not None)
    inside = np.random.default_rng(seed).random(trace.blocks) < share
    thin, number = thinned(trace, inside, share), np.cumsum(inside) - 1
    paths = paths_of(trace)
    if not any(kept(path, inside, number) for path in paths):
        assert thin is None
        return
    assert paths_of(thin) == [kept(path, inside, number) for path in paths]
    assert (thin.blocks, thin.requests) == (inside.sum(), trace.requests)
    before, full = parents(thin), trace.writes
    for r, path in enumerate(paths):
        base = kept(path[: full.base[r]], inside, number)
        wrote = kept(full.block[full.first[r] : full.first[r + 1]].tolist(), inside, number)
        written = thin.writes.block[thin.writes.first[r] : thin.writes.first[r + 1]].tolist()
        assert (written, thin.writes.base[r]) == (wrote, len(base))
        for above, block in zip([*(base or [ROOT])[-1:], *wrote], wrote, strict=False):
            assert before[block] == above
    for policy in ("s3fifo", "ttl"):
        run(thin, one_tier(max(2, thin.blocks // 3)), policy)


def test_a_sample_of_pages_has_the_accesses_to_its_pages():
    trace = zipf(50, 400, skew=0.5)
    inside = np.arange(50) % 3 == 0
    thin = thinned(trace, inside, 1 / 3)
    wanted = expand(trace)[1]
    assert expand(thin)[1].tolist() == (wanted[wanted % 3 == 0] // 3).tolist()


@pytest.mark.parametrize("policy", ["s3fifo", "arc", "lfu"])
def test_a_miniature_is_about_as_far_off_as_it_says(policy):
    trace, capacities = zipf(20_000, 150_000, skew=0.8), (1_000, 4_000)
    whole = [run(trace, one_tier(capacity), policy).metrics["hit_rate"] for capacity in capacities]
    off, expected = [], []
    for seed in range(4):
        parts = samples(trace, 0.1, seed)
        for capacity, exact in zip(capacities, whole, strict=True):
            rate, error = estimated(parts, policy, capacity)
            off.append(abs(rate - exact))
            expected.append(error)
    assert np.mean(off) < 0.02
    assert np.mean(expected) / 4 < np.mean(off) < 3 * np.mean(expected)


def test_paths_are_estimated_too_and_one_seed_gives_one_sample():
    rng = np.random.default_rng(3)
    asked = zip(rng.zipf(1.3, 2_000) % 60, rng.integers(5, 41, 2_000), strict=True)
    trace = trace_of([list(range(40 * session, 40 * session + length)) for session, length in asked])
    whole = run(trace, one_tier(trace.blocks // 3), "s3fifo").metrics["hit_rate"]
    first, again, other = (
        estimated(samples(trace, 0.5, seed), "s3fifo", trace.blocks // 3) for seed in (1, 1, 2)
    )
    assert first == again != other
    assert first[0] == pytest.approx(whole, abs=0.1)


@pytest.mark.parametrize(
    ("rate", "capacity", "message"),
    [
        (1.0, 10, "the sampling rate is 1.0; give a number between 0 and 1"),
        (1e-6, 10, "without accesses: 'paths' has 400 blocks; give a higher one"),
        (
            0.1,
            5,
            "of 5 blocks a sample of 0.1 holds less than one; .* capacities from 10 blocks on",
        ),
    ],
)
def test_a_sample_that_cannot_be_says_what_can(rate, capacity, message):
    with pytest.raises(HierarchyError, match=message):
        estimated(samples(trace_of([list(range(400))] * 3), rate), "lru", capacity)

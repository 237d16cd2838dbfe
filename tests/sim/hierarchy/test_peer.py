"""The compatible engine on runs that can be followed by hand, and its laws."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_cache_rl.sim.hierarchy.generate import workload
from kv_cache_rl.sim.hierarchy.peer.history import PEER_POLICIES
from kv_cache_rl.sim.hierarchy.peer.replay import Event, OversizePageError, replay_peer, replay_peer_trace
from kv_cache_rl.sim.hierarchy.peer.spec import DECODE_PENALTY_MS, PeerTier, tiers_over
from kv_cache_rl.sim.hierarchy.spec import HierarchyError
from kv_cache_rl.sim.hierarchy.traces.trace import pages

FAST, SLOW = PeerTier("fast", 2000, 0.01, 0.02, 10_000), PeerTier("slow", 10_000, 0.2, 0.3, 2000)
UP, DOWN = 0.2 + 0.02 + 1000 / 2000, 0.01 + 0.3 + 1000 / 2000


def test_a_cascade_is_charged_as_on_paper():
    report = replay_peer([0, 1, 2, 0, 0], [1000] * 3, [FAST, SLOW], "lru")
    assert report.served_by == "CCC10"
    assert report.events == (
        Event(0, "promote", 0, 1, 0, UP, 1000),
        Event(1, "promote", 1, 1, 0, UP, 1000),
        Event(2, "demote", 0, 0, 1, DOWN, 1000),
        Event(2, "promote", 2, 1, 0, UP, 1000),
        Event(3, "demote", 1, 0, 1, DOWN, 1000),
        Event(3, "promote", 0, 1, 0, UP, 1000),
    )
    assert report.metrics["avg_latency_ms"] == pytest.approx((4 * UP + 2 * DOWN + 0.01) / 5)
    assert report.metrics["bytes_moved"] == report.metrics["demand_bytes_moved"] == 6000
    assert report.metrics["tier_hit_rate"] == {"slow": 0.2, "fast": 0.2}
    assert report.metrics["peak_footprint_bytes"] == {"fast": 2000, "slow": 2000}
    assert report.residency == ((2, 0), (1,))


def test_decoding_is_charged_per_hit_and_per_transfer():
    report = replay_peer([0, 0], [1000], [FAST, SLOW], "lru", schemes="int2")
    assert report.latency_ms == pytest.approx(UP + 0.06 + 0.01 + 0.06)


def test_a_page_pushed_out_while_it_is_promoted_ends_in_two_tiers():
    tiers = [PeerTier("a", 1, 0, 0, 1), PeerTier("b", 1, 0, 0, 1), PeerTier("c", 3, 0, 0, 1)]
    report = replay_peer([0, 1, 0], [1, 1], tiers, "lru")
    assert report.served_by == "CC1"
    assert report.residency == ((0,), (1,), (0,))
    assert [(e.kind, e.page, e.source, e.destination) for e in report.events[-3:]] == [
        ("demote", 0, 1, 2),
        ("demote", 1, 0, 1),
        ("promote", 0, 1, 0),
    ]


def test_only_predictive_prefetches_and_what_is_never_used_is_wasted():
    one_page = [PeerTier("fast", 1000, 0.01, 0.02, 10_000), SLOW]
    report = replay_peer([0, 1, 0, 1, 0, 1], [1000] * 2, one_page, "predictive")
    assert report.served_by == "CC1110"
    assert [(e.step, e.page) for e in report.events if e.kind == "prefetch"] == [(4, 1), (5, 0)]
    metrics = report.metrics
    assert (metrics["prefetch_requests"], metrics["useful_prefetches"], metrics["wasted_prefetches"]) == (
        2,
        1,
        1,
    )
    assert metrics["prefetch_bytes_moved"] == 2000
    assert (
        replay_peer([0, 1, 0, 1, 0, 1], [1000] * 2, one_page, "predictive", prefetch=False).metrics[
            "prefetch_requests"
        ]
        == 0
    )


def test_an_oversize_page_is_named_with_its_tier_and_what_to_do():
    with pytest.raises(
        OversizePageError,
        match=r"page 1 has 4,000 bytes, tier fast holds 2,000.*at least 4,000 bytes, or store",
    ):
        replay_peer([0, 1], [1000, 4000], [FAST, SLOW], "lru")
    assert issubclass(OversizePageError, ValueError)  # what the peer raises, without saying why


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"policy": "arc"}, "no policy 'arc'; use one of lru, windowed_recency"),
        ({"parameters": {"window": 3}}, "lru takes no parameter 'window'; it takes none"),
        ({"schemes": "int3"}, "page 0 has scheme 'int3'; use one of fp16, fp8, int4, int2"),
        ({"schemes": ["fp16"] * 3}, "3 schemes are given for 2 pages"),
        ({"ids": [0, 2]}, "access 1 asks for page 2, sizes are given for pages 0 to 1"),
        ({"page_bytes": [10, 0]}, "page 1 has 0 bytes"),
        ({"tiers": []}, "no tier"),
        ({"steps": [1]}, "1 steps are given for 2 accesses"),
    ],
)
def test_bad_input_is_explained(changes, says):
    given = {"ids": [0, 1], "page_bytes": [10, 10], "tiers": [FAST, SLOW], "policy": "lru"} | changes
    with pytest.raises(HierarchyError, match=says):
        replay_peer(**given)


def test_a_trace_that_the_peer_cannot_know_is_refused():
    with pytest.raises(HierarchyError, match="how many bytes a page has"):
        replay_peer_trace(pages("unsized", [0, 1]), [FAST], "lru")


def test_an_evicted_page_that_returns_within_the_horizon_is_regretted():
    # Page 0 leaves at step 2 and returns at step 3. The regret, weight x (8 - 1 + 1) / 8, then outweighs the
    # uses of page 2.
    history = [0, 1, 2, 0, 2, 2, 2, 2, 3]
    tiers = [FAST._replace(capacity_bytes=2), SLOW]
    kept = replay_peer(
        history, [1] * 4, tiers, "regret_aware", parameters={"regret_weight": 100.0, "regret_horizon": 8}
    )
    lost = replay_peer(
        history, [1] * 4, tiers, "regret_aware", parameters={"regret_weight": 0.0, "regret_horizon": 8}
    )
    assert kept.residency[0] == (0, 3)
    assert lost.residency[0] == (2, 3)


SIZES = st.lists(st.integers(1, 50), min_size=8, max_size=8)
IDS = st.lists(st.integers(0, 7), min_size=1, max_size=80)


@pytest.mark.parametrize("policy", PEER_POLICIES)
@settings(max_examples=25, deadline=None)
@given(ids=IDS, sizes=SIZES, scheme=st.sampled_from(list(DECODE_PENALTY_MS)), prefetch=st.booleans())
def test_bytes_and_latency_are_those_of_the_events_and_the_hits(policy, ids, sizes, scheme, prefetch):
    tiers = [
        PeerTier("a", 60, 0.5, 0.25, 64),
        PeerTier("b", 90, 1.0, 2.0, 8),
        PeerTier("c", 200, 3.0, 4.0, 2),
    ]
    report = replay_peer(ids, sizes, tiers, policy, schemes=scheme, prefetch=prefetch)
    metrics, hits = report.metrics, report.served_by.count("0")
    moved = [e for e in report.events if e.destination is not None]
    assert metrics["bytes_moved"] == sum(e.bytes for e in moved)
    assert metrics["prefetch_bytes_moved"] == sum(e.bytes for e in moved if e.kind == "prefetch")
    assert metrics["eviction_count"] == sum(e.kind in ("demote", "evict") for e in report.events)
    assert metrics["miss_count"] == len(ids) - hits
    assert metrics["prefetch_requests"] == metrics["useful_prefetches"] + metrics["wasted_prefetches"]
    expected = sum(e.latency_ms for e in report.events) + hits * (0.5 + DECODE_PENALTY_MS[scheme])
    assert report.latency_ms == pytest.approx(expected)
    for tier, level in zip(tiers, report.residency, strict=True):
        assert (
            sum(sizes[page] for page in level)
            <= metrics["peak_footprint_bytes"][tier.name]
            <= tier.capacity_bytes
        )


@settings(max_examples=25, deadline=None)
@given(ids=IDS, sizes=SIZES)
def test_a_window_of_one_access_is_lru(ids, sizes):
    tiers = [PeerTier("a", 60, 0.5, 0.25, 64), PeerTier("b", 1000, 1.0, 2.0, 8)]
    windowed = replay_peer(ids, sizes, tiers, "windowed_recency", parameters={"window_size": 1})
    assert windowed == replay_peer(ids, sizes, tiers, "lru")


def test_the_trace_face_stores_pages_in_the_scheme_asked_for():
    trace = workload("rag_burst")
    fp16, int4 = (
        replay_peer_trace(trace, tiers_over(2), "lru", scheme=scheme) for scheme in ("fp16", "int4")
    )
    assert int4.metrics["miss_count"] < fp16.metrics["miss_count"]
    assert max(e.bytes for e in int4.events) == max(e.bytes for e in fp16.events) // 4

"""A replay that is watched is the replay itself, cut into parts."""

import numpy as np
import pytest

from kv_cache_rl.sim.hierarchy.course import watch
from kv_cache_rl.sim.hierarchy.engine import run
from kv_cache_rl.sim.hierarchy.generate import workload
from kv_cache_rl.sim.hierarchy.policies import POLICIES
from kv_cache_rl.sim.hierarchy.spec import HierarchyError, physical


@pytest.fixture(scope="module")
def trace():
    return workload("rag_burst", length=400)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("parts", [1, 7, 10_000])
def test_the_parts_of_a_course_add_up_to_the_replay(trace, policy, parts):
    scenario = physical(60_000, 0, 120_000, 0)
    whole, course = run(trace, scenario, policy).metrics, watch(trace, scenario, policy, parts)
    weights = np.diff(np.concatenate([[0], course.requests]))  # a page trace has an access a request
    rates = weights @ course.served / trace.accesses
    assert rates[:-1] == pytest.approx(list(whole["tier_hit_rate"].values()))
    assert rates[-1] == pytest.approx(whole["recompute_rate"])
    assert 1e3 * (weights @ course.latency_s) / trace.requests == pytest.approx(whole["avg_latency_ms"])
    peaks = np.array(list(whole["peak_footprint_bytes"].values())) / course.capacity
    assert (course.used <= peaks + 1e-12).all() and course.used[-1, 0] > 0.5
    assert course.requests[-1] == trace.requests and len(course.time_s) == min(parts, trace.requests)


def test_the_last_part_of_a_course_says_where_the_pages_lie(trace):
    scenario = physical(60_000, 0, 120_000, 0)
    state, course = run(trace, scenario, "lfu").state, watch(trace, scenario, "lfu", 5)
    assert course.used[-1].tolist() == (state.tiers["used"] / state.tiers["capacity"]).tolist()
    said = course.to_json()
    assert list(said["found_in"]) == ["gpu", "host", "nowhere"] and list(said["occupancy"]) == ["gpu", "host"]


def test_what_cannot_be_replayed_cannot_be_watched(trace):
    with pytest.raises(HierarchyError, match="enlarge the tier"):
        watch(trace, physical(10, 0, 0, 0), "lru")

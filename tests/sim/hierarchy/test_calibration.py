"""A replay under a measured calibration: bytes, seconds and divergence by hand; under the literature's
nothing is new.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stepping import whole

from kv_cache_rl.core import calibrations
from kv_cache_rl.core.calibration import Calibration, Scheme
from kv_cache_rl.core.hardware import HardwareProfile, Link
from kv_cache_rl.experiments.hierarchy.cells import bound_capacity
from kv_cache_rl.experiments.hierarchy.settings import setting_of
from kv_cache_rl.sim.hierarchy.engine import run
from kv_cache_rl.sim.hierarchy.sizes import kept_bytes, kept_parts
from kv_cache_rl.sim.hierarchy.spec import HierarchyError, Scenario, Tier, one_tier, physical
from kv_cache_rl.sim.hierarchy.traces.trace import pages

ENCODE, DECODE, PER_TOKEN, KL8, KL4 = 2e-3, 5e-4, 0.01, 1e-4, 3e-2


@pytest.fixture(autouse=True)
def lab(monkeypatch):
    """A calibration "lab" with round numbers."""
    profile = HardwareProfile("lab", 1, 1.0, "pcie4", 1, 0.0, PER_TOKEN, 0.0, 1e-3, 0.0)
    schemes = {
        "fp16": Scheme(1.0, 0.0),
        "int8": Scheme(0.625, KL8, encode_s_per_byte=ENCODE, decode_s_per_byte=DECODE),
        "int4": Scheme(0.375, KL4, encode_s_per_byte=2 * ENCODE, decode_s_per_byte=2 * DECODE),
    }
    known = dict(calibrations.CALIBRATIONS)
    known["lab"] = Calibration("lab", "by hand", schemes, Link("lab", 500.0, 500.0, 0.25), profile)
    monkeypatch.setattr(calibrations, "CALIBRATIONS", known)
    monkeypatch.setattr("kv_cache_rl.sim.hierarchy.spec.CALIBRATIONS", known)


def two_tiers(fast=64, **rules):
    link = Link("between", 1000.0, 1000.0, 0.0)
    return Scenario((Tier("fast", fast, Link("own", 1000.0, 1000.0, 0.0)), Tier("slow", 640, link)), **rules)


def trace_of_pages(*ids):
    return pages("by hand", np.array(ids), 64)


@given(size=st.integers(1, 2**62), level=st.sampled_from([0, 1, 2]))
@settings(deadline=None)
def test_the_literature_keeps_the_whole_the_half_and_the_quarter_to_the_byte(size, level):
    parts = kept_parts(one_tier(64, squeeze="int4"))
    assert kept_bytes(size, parts[level]) == size >> level


@given(size=st.integers(1, 2**62), part=st.integers(1, 1024))
@settings(deadline=None)
def test_bytes_kept_are_the_part_rounded_down(size, part):
    assert kept_bytes(size, part) == size * part // 1024


def test_a_victim_keeps_the_measured_bytes_and_takes_the_measured_seconds():
    state = whole(trace_of_pages(0, 1), two_tiers(squeeze="int4", calibration="lab"), "lru")
    assert state.page[0].level == 2
    computing = 16 * PER_TOKEN + 64 / 1000
    crossing = 24 / 1000
    assert state.latency[1] == pytest.approx(computing + 64 / 1000 + 64 * 3 * ENCODE + crossing)


def test_a_compressed_page_is_restored_whenever_it_is_read_and_its_divergence_counted():
    found = run(trace_of_pages(0, 1, 0), two_tiers(fast=104, squeeze="int8", calibration="lab"), "lru")
    assert found.state.page[0].level == 1
    assert found.metrics["hit_rate"] == pytest.approx(1 / 3)
    assert found.state.latency[2] == pytest.approx(40 / 1000 + 64 * DECODE)
    assert found.metrics["kl"] == pytest.approx(KL8 / 3)
    assert found.metrics["quality_loss"] == pytest.approx(0.005 / 3)


def test_a_footprint_has_the_measured_bytes_seconds_and_divergence():
    found = run(trace_of_pages(0, 0, 0, 0), two_tiers(footprint="int4", calibration="lab"), "lru")
    assert found.metrics["peak_footprint_bytes"]["fast"] == 24
    assert found.metrics["kl"] == pytest.approx(KL4 * 3 / 4)
    computing = 16 * PER_TOKEN + 24 / 1000 + 64 * 2 * ENCODE
    reading = 24 / 1000 + 64 * 2 * DECODE
    assert found.state.latency.tolist() == pytest.approx([computing + reading, reading, reading, reading])


def test_the_literature_has_no_divergence_and_no_seconds_of_its_own():
    found = run(trace_of_pages(0, 1, 0), two_tiers(squeeze="int8"), "lru")
    assert "kl" not in found.metrics
    named = run(trace_of_pages(0, 1, 0), two_tiers(squeeze="int8", calibration="literature"), "lru")
    assert named.metrics == found.metrics


def test_the_host_link_and_computing_anew_come_with_the_calibration():
    scenario = physical(64, 0, 640, 0, calibration="lab")
    assert scenario.tiers[1].link == Link("lab", 500.0, 500.0, 0.25)
    assert scenario.profile.name == "lab"
    assert physical(64, 0, 640, 0).profile.name == "a100-llama-3.1-8b"
    assert physical(64, 0, 640, 0).tiers[1].link.name == "pcie4-conservative"


def test_the_bound_takes_every_page_at_its_smallest_measured_size():
    trace = trace_of_pages(0, 1, 0)
    assert bound_capacity(trace, two_tiers(fast=240, footprint="int4", calibration="lab"))[1] == 10
    assert bound_capacity(trace, two_tiers(fast=240, squeeze="int4", calibration="lab"))[1] == 10
    assert bound_capacity(trace, two_tiers(fast=240, squeeze="int4"))[1] == 15


def test_a_precision_that_was_not_measured_and_an_unknown_calibration_are_refused():
    with pytest.raises(HierarchyError, match="calibration 'lab' has no 'int2'; use one of fp16, int8, int4"):
        one_tier(64, footprint="int2", calibration="lab")
    with pytest.raises(HierarchyError, match="unknown calibration 'nobody'; use one of literature"):
        physical(64, 0, 64, 0, calibration="nobody")


def test_a_sweep_names_it_like_any_other_rule():
    setting = setting_of({"name": "measured", "tiers": {"gpu": 0.5, "host": "100%"}, "calibration": "lab"})
    assert setting.to_json()["calibration"] == "lab"
    assert setting.scenario(trace_of_pages(0, 1)).calibration == "lab"


def test_a_measured_calibration_leaves_a_profile_nothing_to_say():
    with pytest.raises(HierarchyError, match="calibration measured-cpu has measured what computing takes"):
        one_tier(5, hardware="rtx4090-llama-3.1-8b", calibration="measured-cpu")
    assert one_tier(5, hardware="rtx4090-llama-3.1-8b").profile.name == "rtx4090-llama-3.1-8b"

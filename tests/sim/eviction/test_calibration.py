"""An eviction scenario under a calibration's seconds: the literature's changes nothing, a measured one its
costs alone.
"""

from dataclasses import asdict, replace

import pytest

from kv_cache_rl.core import calibrations
from kv_cache_rl.core.calibration import Calibration, Scheme
from kv_cache_rl.core.geometry import ModelGeometry
from kv_cache_rl.core.hardware import HardwareProfile, Link
from kv_cache_rl.sim.eviction import Episode, Scenario, ScenarioError, load_scenarios
from kv_cache_rl.sim.eviction.build import recalibrated

COSTS = {"id", "hardware", "model", "link_ns_per_page", "link_fixed_us", "prefill_c1_ns", "prefill_c2_ps"}
REFERENCES = {"floor", "floor_by", "best", "best_log"}


@pytest.fixture
def lab(monkeypatch):
    """A calibration "lab": 256 bytes a token, 1 GB/s with 40 microseconds, 2 microseconds a token and 3 ns a
    pair.
    """
    profile = HardwareProfile("lab-cpu", 1, 1.0, "measured", 1, 0.0, 2e-6, 3e-9, 1e-3, 0.0)
    found = Calibration(
        "lab",
        "by hand",
        {"fp16": Scheme(1.0)},
        Link("lab", 1e9, 5e8, 40e-6),
        profile,
        ModelGeometry("tiny", 1, 1, 64, 0.1),
    )
    monkeypatch.setitem(calibrations.CALIBRATIONS, "lab", found)
    monkeypatch.setitem(calibrations.CALIBRATIONS, "bytes-only", replace(found, name="bytes-only", link=None))


@pytest.fixture
def scenario():
    return load_scenarios(difficulty="easy", split="test", num_examples=1)[0]


def test_the_literature_changes_nothing(scenario):
    assert recalibrated(scenario, "literature") is scenario


def test_a_measured_calibration_changes_costs_and_drops_the_references(lab, scenario):
    found = recalibrated(scenario, "lab")
    assert (found.link_ns_per_page, found.link_fixed_us) == (256 * 128, 40)
    assert (found.prefill_c1_ns, found.prefill_c2_ps) == (2000, 3000)
    assert (found.hardware, found.model) == ("lab-cpu", "tiny")
    assert (found.floor, found.best, found.best_log) == (0.0, 0.0, ())
    before, after = asdict(scenario), asdict(found)
    assert {name for name in before if before[name] != after[name]} <= COSTS | REFERENCES
    assert Scenario.from_json(found.to_json()) == found
    episode = Episode(found)
    while not episode.done:
        episode.step([])
    assert episode.report().metrics


def test_an_unknown_calibration_and_one_without_seconds_are_refused(lab, scenario):
    with pytest.raises(ScenarioError, match="unknown calibration 'nobody'; use one of literature"):
        recalibrated(scenario, "nobody")
    with pytest.raises(
        ScenarioError, match="'bytes-only' has no link, hardware or model; use one that paged calibrate made"
    ):
        recalibrated(scenario, "bytes-only")

"""``--calibration``: a name or a file decides where a replay's bytes and seconds come from; by default
nothing is new.
"""

import json
from dataclasses import replace

import pytest

from kv_cache_rl.core import calibrations
from kv_cache_rl.core.calibration import Calibration, Scheme
from kv_cache_rl.core.hardware import HARDWARE, LINKS

LAB = Calibration(
    "lab",
    "by hand",
    {
        "fp16": Scheme(1.0, 0.0),
        "int8": Scheme(0.625, 1e-4, encode_s_per_byte=1e-9, decode_s_per_byte=1e-9),
        "int4": Scheme(0.375, 3e-2, encode_s_per_byte=1e-9, decode_s_per_byte=1e-9),
    },
    LINKS["sata"],
    HARDWARE["a100-llama-3.1-8b"],
)
OPTIONS = ("hierarchy", "replay", "workload:rag_burst", "--tiers", "gpu=200KB,host=2MB", "--squeeze", "int4")


@pytest.fixture
def lab(monkeypatch, tmp_path):
    """A calibration "lab" known by name, the same in a file under another, and a file that is none."""
    for module in ("kv_cache_rl.core.calibrations", "kv_cache_rl.sim.hierarchy.spec"):
        monkeypatch.setattr(f"{module}.CALIBRATIONS", {**calibrations.CALIBRATIONS, "lab": LAB})
    monkeypatch.setattr("kv_cache_rl.sim.hierarchy.spec.CALIBRATIONS", calibrations.CALIBRATIONS)
    (tmp_path / "lab.json").write_text(json.dumps(replace(LAB, name="from-file").to_json()))
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    broken = LAB.to_json()
    broken["link"] = {**broken["link"], "one_way": None}
    (tmp_path / "null.json").write_text(json.dumps(broken))


def test_the_literature_is_the_default_and_a_name_or_a_file_takes_its_place(kv, lab):
    found = {
        name: kv(*OPTIONS, *extra, "--json").json
        for name, extra in {
            "plain": (),
            "literature": ("--calibration", "literature"),
            "lab": ("--calibration", "lab"),
            "file": ("--calibration", "lab.json"),
        }.items()
    }
    assert found["plain"] == found["literature"]
    assert found["lab"] == found["file"]
    assert found["lab"]["kl"] > 0 and "kl" not in found["plain"]
    assert found["lab"]["avg_latency_ms"] != found["plain"]["avg_latency_ms"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("labb", "unknown calibration 'labb'; did you mean lab?"),
        ("nothing.json", "nothing.json: there is no such file"),
        ("broken.json", "broken.json is damaged: it is not JSON"),
        ("deep.json", "deep.json is damaged: its brackets are nested too deep"),
        ("null.json", "null.json.link: one_way is None, expected a number above 0"),
    ],
)
def test_what_is_no_calibration_is_refused(kv, lab, name, words):
    said = kv(*OPTIONS, "--calibration", name)
    assert said.code == 2 and words in said.err

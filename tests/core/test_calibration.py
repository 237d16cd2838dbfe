"""Calibrations: the literature's is the tables, files are read whole or refused, names are taken once."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from kv_cache_rl.core.calibration import Calibration, CalibrationError, Scheme
from kv_cache_rl.core.calibrations import (
    CALIBRATIONS,
    LITERATURE,
    MEASURED_CPU,
    calibration_named,
    geometry_named,
    host_link,
    register,
)
from kv_cache_rl.core.geometry import MODELS
from kv_cache_rl.core.hardware import HARDWARE, LINKS
from kv_cache_rl.core.precision import LADDER, PRECISIONS

MINE = Calibration(
    "mine",
    "by hand",
    {
        "fp16": Scheme(1.0, 0.0),
        "int8": Scheme(0.53, 1e-6, encode_s_per_byte=1e-9, decode_s_per_byte=5e-10, delta_nll=-1e-5),
    },
    LINKS["sata"],
    HARDWARE["a100-llama-3.1-8b"],
    replace(MODELS["llama-2-7b"], name="mine"),
    {"law": 2.0},
)


def test_the_literature_profile_is_the_published_tables():
    assert CALIBRATIONS["literature"] is LITERATURE
    assert {name: scheme.multiplier for name, scheme in LITERATURE.schemes.items()} == {
        name: precision.multiplier for name, precision in PRECISIONS.items()
    }
    assert {scheme.kl for scheme in LITERATURE.schemes.values()} == {None}
    assert host_link("literature") == LINKS["pcie4-conservative"]
    assert LITERATURE.hardware is LITERATURE.model is None


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_every_calibration_covers_the_ladder_and_survives_being_written_down(name):
    found = calibration_named(name)
    assert set(LADDER) <= set(found.schemes) and found.schemes["fp16"].multiplier == 1.0
    assert Calibration.from_json(json.loads(json.dumps(found.to_json()))) == found
    bytes_kept = [found.scheme(rung).multiplier for rung in LADDER]
    assert bytes_kept == sorted(bytes_kept, reverse=True)


def test_the_measured_profile_is_the_committed_measurement_to_four_digits():
    stored = json.loads((Path(__file__).parents[2] / "results/paged/calibration.json").read_text())
    found = Calibration.from_json(stored)
    assert found.name == MEASURED_CPU.name and found.model.name == MEASURED_CPU.model.name
    assert set(found.schemes) == set(MEASURED_CPU.schemes)
    pairs = [(found.schemes[name], scheme) for name, scheme in MEASURED_CPU.schemes.items()]
    for measured, stated in (
        *pairs,
        (found.link, MEASURED_CPU.link),
        (found.hardware, MEASURED_CPU.hardware),
    ):
        for name, value in asdict(measured).items():
            assert getattr(stated, name) == (
                pytest.approx(value, rel=6e-4) if isinstance(value, float) else value
            )


def test_what_is_written_is_read_back():
    assert Calibration.from_json(json.loads(json.dumps(MINE.to_json()))) == MINE


def change(**parts):
    data = MINE.to_json()
    for path, value in parts.items():
        *above, last = path.split("__")
        place = data
        for key in above:
            place = place[key]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "is not a calibration of version 1"),
        (change(version=2), "is not a calibration of version 1"),
        (change(schemes__fp16=None), "schemes has no 'fp16'"),
        (change(schemes__int8__multiplier=None), "f.schemes.int8: field 'multiplier' is missing"),
        (change(schemes__int8__multiplier=1.5), "f.schemes.int8: multiplier 1.5 must be above 0, at most 1"),
        (change(schemes__int8__kl=-1.0), "kl is -1.0, expected a number of 0 or more"),
        (change(schemes__int8__kl=float("nan")), "kl is nan"),
        (change(schemes__int8__decode_s_per_byte="soon"), "decode_s_per_byte is 'soon'"),
        (change(schemes__int8__speed=1.0), "expected the fields multiplier, kl"),
        (change(link=[]), "f.link: expected the fields name, one_way"),
        (change(model__layers=None), "f.model: field 'layers' is missing"),
    ],
)
def test_a_file_that_is_not_one_is_refused_with_the_field_and_the_remedy(data, words):
    with pytest.raises(CalibrationError) as refused:
        Calibration.from_json(data, "f")
    assert words in str(refused.value)
    assert "kv-cache-rl paged calibrate --out" in str(refused.value)


def test_a_name_belongs_to_one_calibration(monkeypatch):
    monkeypatch.setattr("kv_cache_rl.core.calibrations.CALIBRATIONS", dict(CALIBRATIONS))
    assert geometry_named("mine") is None
    assert register(MINE) == register(MINE) == "mine"
    assert geometry_named("mine") == MINE.model
    assert host_link("mine") == LINKS["sata"]
    with pytest.raises(CalibrationError, match="there is another calibration 'mine'"):
        register(replace(MINE, source="elsewhere"))
    with pytest.raises(CalibrationError, match="there is another calibration 'literature'"):
        register(replace(MINE, name="literature"))


def test_an_unknown_name_or_scheme_lists_the_known_ones():
    with pytest.raises(CalibrationError, match="unknown calibration 'lab'; use one of literature"):
        calibration_named("lab")
    with pytest.raises(CalibrationError, match="calibration 'mine' has no 'fp8'; use one of fp16, int8"):
        MINE.scheme("fp8")


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (
            "schemes.int8.multiplier",
            None,
            "f.schemes.int8: multiplier is None, expected a number of 0 or more",
        ),
        ("schemes.int8.multiplier", 10**400, "expected a number of 0 or more"),
        ("schemes.int8.decode_s_per_byte", None, "decode_s_per_byte is None"),
        ("schemes.fp16.multiplier", 0.5, "f.schemes.fp16: multiplier must be 1"),
        ("link.one_way", None, "f.link: one_way is None, expected a number above 0"),
        ("link.both_ways", 0, "f.link: both_ways is 0, expected a number above 0"),
        ("link.name", 5, "f.link: name is 5, expected a name"),
        ("hardware.prefill_c1_s", None, "f.hardware: prefill_c1_s is None"),
        ("hardware.gpus", True, "f.hardware: gpus is True, expected a whole number of 1 or more"),
        ("model.layers", 0, "f.model: layers is 0, expected a whole number of 1 or more"),
        ("model.layers", 2.5, "f.model: layers is 2.5, expected a whole number"),
        ("name", None, "f: name is None, expected a text"),
        ("name", " ", "f: name is ' ', expected a text"),
        ("source", [1], "f: source is [1], expected a text"),
        ("notes", [1, 2], "f: notes is [1, 2], expected an object"),
    ],
)
def test_a_value_that_is_no_measurement_is_refused_with_the_field_and_the_remedy(place, value, words):
    data = json.loads(json.dumps(MINE.to_json()))
    *above, last = place.split(".")
    part = data
    for key in above:
        part = part[key]
    part[last] = value
    with pytest.raises(CalibrationError) as refused:
        Calibration.from_json(data, "f")
    assert words in str(refused.value)
    assert len(str(refused.value)) < 300 and "kv-cache-rl paged calibrate --out" in str(refused.value)


def test_what_was_not_measured_may_be_null_or_absent():
    data = json.loads(json.dumps(MINE.to_json()))
    data |= {"link": None, "hardware": None, "model": None}
    data["schemes"]["int8"] |= {"kl": None, "encode_s_per_byte": None}
    del data["notes"]
    found = Calibration.from_json(data)
    assert found.link is found.hardware is found.model is found.schemes["int8"].kl is None
    assert found.notes == {}

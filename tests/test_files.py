"""What is written is JSON for every reader, whole or not at all, under a name that every system takes."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_cache_rl.files import finite, json_text, slug, write_json, write_whole

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda below: st.lists(below) | st.dictionaries(st.text(), below),
)


def strict(name: str):
    raise AssertionError(f"{name} is no JSON")


@given(values)
def test_every_value_becomes_json_that_a_strict_reader_takes(value):
    read = json.loads(json_text(value), parse_constant=strict)
    assert read == json.loads(json.dumps(finite(value)))


@given(values)
def test_a_finite_value_stays_what_it_is(value):
    once = finite(value)
    assert finite(once) == once


def test_only_what_json_lacks_becomes_null():
    value = {"a": [1.5, float("nan")], "b": (float("inf"), {"c": -float("inf")}), "d": 0}
    assert finite(value) == {"a": [1.5, None], "b": [None, {"c": None}], "d": 0}


def test_a_file_is_replaced_whole_and_leaves_no_part_behind(tmp_path):
    path = tmp_path / "it.json"
    write_json(path, {"x": float("nan")})
    assert path.read_text() == '{\n  "x": null\n}\n'
    write_whole(path, b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "it.json"
    write_json(path, 1)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(OSError, match="disk is full"):
        write_json(path, 2)
    assert json.loads(path.read_text()) == 1


@given(st.text())
def test_a_slug_is_a_name_that_stays_in_its_folder(text):
    name = slug(text)
    assert name and "/" not in name and "\\" not in name and name.strip(".") == name and name.isascii()
    assert slug(name) == name


def test_what_has_no_letters_gets_a_name_all_the_same():
    assert (slug("../.."), slug("../..", "model"), slug("openai/gpt 5.4:mini")) == (
        "unnamed",
        "model",
        "openai-gpt-5.4-mini",
    )

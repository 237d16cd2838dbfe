"""What is written is JSON for every reader, whole or not at all, under a name that every system takes; what
is read is held to the same.
"""

import errno
import io
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_cache_rl import files
from kv_cache_rl.files import (
    NotAFile,
    NotJson,
    finite,
    json_text,
    json_value,
    lines_of,
    part_of,
    read_json,
    regular,
    slug,
    write_json,
    write_whole,
)

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


def test_of_two_that_write_one_file_at_once_the_last_to_end_has_it_whole(tmp_path):
    path = tmp_path / "it.txt"
    with part_of(path) as first, first.open("w") as mine:
        mine.write("first ")
        with part_of(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
        mine.write("and last")
    assert path.read_text() == "first and last" and list(tmp_path.iterdir()) == [path]


def test_what_a_link_leads_to_is_written_and_the_link_stays(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for target in ("here.txt", "elsewhere/there.txt"):
        (link := tmp_path / "link").symlink_to(target)
        for text in (b"made", b"made anew"):
            write_whole(link, text)
            assert link.is_symlink() and (tmp_path / target).read_bytes() == text
        link.unlink()
    assert sorted(one.name for one in tmp_path.rglob("*")) == ["elsewhere", "here.txt", "there.txt"]


def test_an_error_of_the_part_of_a_file_names_the_file(tmp_path):
    path = tmp_path / "it.txt"
    with pytest.raises(PermissionError) as raised, part_of(path) as part:
        raise PermissionError(errno.EACCES, "no", str(part))
    assert raised.value.filename == str(path)


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


@given(values)
def test_what_is_written_is_read_back(value):
    assert json_value(json_text(value).encode()) == json.loads(json.dumps(finite(value)))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "not JSON"),
        (b'{"a": 1', "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b'{"a": 1} {"b": 2}', "not JSON .Extra data"),
        (b'{"a": 1, "b": [{"c": 2, "c": 2}]}', "the field 'c' stands there twice"),
        (b'{"reward": NaN}', "NaN, which is no number"),
        (b"[-Infinity]", "-Infinity, which is no number"),
        (b"[1e999]", "1e999 is beyond every number"),
        (b"[" + b"9" * 5000 + b"]", "not JSON .it holds a number of more than 4,300 digits"),
        (b'"\xff"', "byte 0xff at position 2 is not UTF-8"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"model": "\\ud800"}', "half a character"),
        ('{"model": "\udcff"}', "half a character"),
    ],
)
def test_what_is_not_json_as_it_is_written_is_refused_with_the_reason(text, problem):
    with pytest.raises(NotJson, match=problem):
        json_value(text)


def test_a_pair_of_halves_is_a_character():
    assert json_value(json.dumps({"said": "\U0001f600"})) == {"said": "\U0001f600"}


def test_a_file_is_read_with_or_without_the_mark_that_editors_leave(tmp_path):
    path = tmp_path / "it.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n')
    assert read_json(path) == {"a": 1}
    path.write_bytes(b"{")
    with pytest.raises(NotJson, match=r"it\.json is damaged: it is not JSON"):
        read_json(path)


def test_a_file_without_an_end_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "LINE_LIMIT", 1000)
    monkeypatch.setattr(files, "BLANK_LIMIT", 10)
    if os.path.exists("/dev/zero"):
        with pytest.raises(NotAFile, match="not a regular file"):
            read_json("/dev/zero")
    (tmp_path / "long.json").write_bytes(b" " * 2000)
    with pytest.raises(NotJson, match="more than 1,000 bytes"):
        read_json(tmp_path / "long.json")
    with pytest.raises(NotJson, match="line 2 is longer than 1,000 bytes"):
        list(lines_of(io.BytesIO(b"{}\n" + b"x" * 2000)))
    with pytest.raises(NotJson, match="10 blank lines stand before line 13"):
        list(lines_of(io.BytesIO(b"{}\n" + b" \n" * 20)))
    assert list(lines_of(io.BytesIO(b"\n {}\n\r\n1"))) == [(2, b" {}\n"), (4, b"1")]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_neither_read_nor_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for use in (regular, read_json, lambda path: write_whole(path, b"x")):
        with pytest.raises(NotAFile, match="not a regular file"):
            use(pipe)
    assert pipe.is_fifo() and [one.name for one in tmp_path.iterdir()] == ["pipe"]
    assert regular(tmp_path / "none") == tmp_path / "none" and regular(tmp_path) == tmp_path


def test_what_cannot_be_written_leaves_no_part_of_it(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match="folder'"):
        files.write_whole(tmp_path / "folder", b"x")
    with pytest.raises(FileNotFoundError, match=r"none/a\.json'"):
        files.write_whole(tmp_path / "none" / "a.json", b"x")
    with pytest.raises(TypeError):
        files.write_whole(tmp_path / "a.json", "text")
    assert [one.name for one in tmp_path.iterdir()] == ["folder"]

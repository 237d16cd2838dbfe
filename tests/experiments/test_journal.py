"""A journal gives back the rows that were written to it, and no others."""

import json

import pytest

from kv_cache_rl.experiments.journal import JOURNAL, Journal, JournalError

ROW = {"policy": "lru", "error": None, "metrics": {"hit_rate": 0.25, "by tier": [1, 2.5e-7]}}


@pytest.fixture
def line(tmp_path):
    """A row as a journal writes it."""
    with Journal(tmp_path / "whole") as journal:
        journal.add("a", ROW)
    return (tmp_path / "whole" / JOURNAL).read_text()


def test_two_sweeps_do_not_write_into_one_folder(tmp_path):
    with (
        Journal(tmp_path),
        pytest.raises(JournalError, match="another command writes there now; wait for it"),
    ):
        Journal(tmp_path)


def test_a_row_comes_back_as_it_was_and_is_written_once(tmp_path, line):
    with Journal(tmp_path / "whole") as journal:
        assert journal.rows == {"a": ROW}
        journal.add("a", ROW)
    assert (tmp_path / "whole" / JOURNAL).read_text() == line


DAMAGE = {
    "a number altered": lambda line: line.replace("0.25", "0.26"),
    "a key altered": lambda line: line.replace('"key": "a"', '"key": "b"'),
    "a key twice": lambda line: line.replace('"error"', '"policy": "lru", "error"'),
    "NaN": lambda line: line.replace("0.25", "NaN"),
    "no row": lambda line: line[: line.index('"row"')] + '"row": null}\n',
    "empty": lambda line: "{}\n",
    "a list": lambda line: "[]\n",
    "a text": lambda line: '"row"\n',
    "a number": lambda line: "9" * 5000 + "\n",
    "no text": lambda line: "\x00\n",
    "nested deep": lambda line: line[: line.index("{", 1)] + "[" * 100_000 + "\n",
    "a wrong type": lambda line: line.replace('"a"', "[1]"),
    "cut short": lambda line: line[:40] + "\n",
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_line_that_is_not_what_was_written_is_named_with_the_remedy(tmp_path, line, what):
    (tmp_path / JOURNAL).write_text(line + DAMAGE[what](line) + line)
    with pytest.raises(JournalError, match=f"{JOURNAL}, line 2: is no finished row.*delete that line"):
        Journal(tmp_path)
    lines = (tmp_path / JOURNAL).read_text().splitlines(keepends=True)
    (tmp_path / JOURNAL).write_text(lines[0] + lines[2])  # the remedy
    with Journal(tmp_path) as journal:
        assert journal.rows == {"a": ROW}


def test_bytes_that_are_no_text_are_named(tmp_path, line):
    (tmp_path / JOURNAL).write_bytes(b"\xff\xfe{}\n" + line.encode())
    with pytest.raises(JournalError, match=f"{JOURNAL}, line 1: is no finished row"):
        Journal(tmp_path)


def test_rows_of_older_versions_have_no_checksum_and_are_played_anew(tmp_path, line):
    old = json.dumps({"key": "old", "row": ROW}) + "\n"
    (tmp_path / JOURNAL).write_text(old + line)
    with Journal(tmp_path) as journal:
        assert list(journal.rows) == ["a"]
        journal.order(["a"])
    assert (tmp_path / JOURNAL).read_text() == line

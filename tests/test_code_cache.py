"""A damaged cache of compiled code is noticed, thrown away and built anew, and says so in one line."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kv_cache_rl import code_cache, jit
from kv_cache_rl.code_cache import CheckedFile, Locator


def plus(x):
    return x + 1


def compiled():
    """The function as a new process would have it, compiled for whole numbers."""
    found = jit.njit(plus)
    assert found(1) == 2
    return found


def hits(found) -> int:
    return sum(found.stats.cache_hits.values())


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """A cache of the test's own that holds one function; nothing was said so far."""
    monkeypatch.setattr(Locator, "folder", tmp_path / "code")
    monkeypatch.setattr(code_cache, "_said", set())
    assert (hits(compiled()), hits(compiled())) == (0, 1)
    return tmp_path / "code"


def one(folder: Path, ending: str) -> Path:
    (path,) = folder.glob(f"*/*{ending}")
    return path


DAMAGES = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "cut to its beginning": lambda path: path.write_bytes(path.read_bytes()[:3]),
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(os.urandom(4000)),
    "one bit flipped": lambda path: path.write_bytes(
        (data := path.read_bytes())[:-100] + bytes([data[-100] ^ 1]) + data[-99:]
    ),
    "zeros, as after a power cut": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("ending", [".nbc", ".nbi"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_compiled_anew_and_said_in_one_line(folder, capsys, damage, ending):
    path = one(folder, ending)
    DAMAGES[damage](path)
    assert hits(compiled()) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"note: compiled code in {folder} was damaged; it is thrown away and compiled")
    if damage == "a folder" and ending == ".nbi":
        assert said[1].startswith(f"note: compiled code cannot be kept in {folder} (Is a directory)")
        return
    assert len(said) == 1
    assert hits(compiled()) == 1 and capsys.readouterr().err == ""


def test_code_that_was_removed_is_compiled_anew_without_a_word(folder, capsys):
    one(folder, ".nbc").unlink()
    assert (hits(compiled()), hits(compiled())) == (0, 1)
    assert capsys.readouterr().err == ""


def test_a_cache_that_may_not_be_read_is_replaced(folder, capsys, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    with monkeypatch.context() as locked:
        locked.setattr(code_cache, "checked", refuse)
        assert hits(compiled()) == 0
    assert "Permission denied" in capsys.readouterr().err
    assert hits(compiled()) == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_code_that_cannot_be_kept_is_used_all_the_same(folder, capsys, monkeypatch, number):
    def refuse(self, path, content):
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(CheckedFile, "_write", refuse)
    one(folder, ".nbi").unlink()
    assert (hits(compiled()), hits(compiled())) == (0, 0)
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"note: compiled code cannot be kept in {folder} ({os.strerror(number)})")
    assert "set KV_CACHE_RL_CACHE to another folder" in said


def test_a_cache_that_cannot_be_made_is_no_error(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(Locator, "folder", tmp_path / "file")
    assert hits(compiled()) == 0
    assert "cannot be kept" in capsys.readouterr().err


def test_an_index_of_another_version_or_source_is_out_of_date_and_no_damage(folder, capsys, monkeypatch):
    found = compiled()
    monkeypatch.setattr(found._cache._cache_file, "_version", "0.1")
    assert found._cache._cache_file._load_index() == {}
    found._cache._cache_file._version = compiled()._cache._cache_file._version
    monkeypatch.setattr(found._cache._cache_file, "_source_stamp", b"another")
    assert found._cache._cache_file._load_index() == {}
    assert capsys.readouterr().err == ""


def test_two_processes_that_compile_two_signatures_at_once_never_mix_them_up(folder):
    program = (
        "import sys; from pathlib import Path; from kv_cache_rl import jit; "
        "from kv_cache_rl.code_cache import Locator; sys.path.insert(0, sys.argv[1]); "
        "Locator.folder = Path(sys.argv[2]); import test_code_cache as t; f = jit.njit(t.plus); "
        "kind = (int, float, complex, bool)[int(sys.argv[3])]; print(f(kind(1)), f(1), f(1.5))"
    )

    def run(k: int, into: list) -> None:
        command = [sys.executable, "-c", program, str(Path(__file__).parent), str(folder / "shared"), str(k)]
        into.append(subprocess.run(command, capture_output=True, text=True))

    done: list = []
    threads = [threading.Thread(target=run, args=(k, done)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.stdout for one in done) == sorted(
        ["2 2 2.5\n", "2.0 2 2.5\n", "(2+0j) 2 2.5\n", "2 2 2.5\n"]
    ), [one.stderr for one in done]
    assert all(one.stderr == "" for one in done)


CLOSURES = """
import sys

import numpy as np

from kv_cache_rl.jit import njit


def made(gain):
    @njit(cache=False)
    def play(x, n):
        if n > 99:  # what calls itself, and is long, is not copied into its callers: it has a symbol
            return play(x, n - 1) * 2 + gain
        total = 0.0
        for i in range(n):
            y = np.sin(x * i) + np.cos(x + i) * np.exp(-x / (i + 1.0))
            total += np.sqrt(abs(y)) + np.arctan(y) * np.floor(total)
            total -= np.tan(y) + np.log(abs(y) + 1.0)
        return total * 0 + x * gain

    return play


one, two = made(1.0), made(2.0)


@njit
def first(x, n):
    return one(x, n) + one(x + 1, n)


@njit
def second(x, n):
    return two(x, n) + two(x + 1, n)


for name in sys.argv[1:]:
    print(globals()[name](0.5, 3))
"""


def test_closures_that_two_processes_compiled_are_not_taken_for_one_another(tmp_path):
    program = tmp_path / "closures.py"
    program.write_text(CLOSURES)

    def run(*names: str) -> list[float]:
        environment = os.environ | {"KV_CACHE_RL_CACHE": str(tmp_path / "code")}
        command = [sys.executable, str(program), *names]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return list(map(float, done.stdout.split()))

    assert (run("first"), run("second")) == ([2.0], [4.0]), "each the first that its process compiles"
    assert (run("first", "second"), run("second", "first")) == ([2.0, 4.0], [4.0, 2.0])

"""Where compiled code is kept when the usual cache folder cannot be written."""

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from kv_cache_rl import code_cache, jit


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """A temporary folder of the test's own, and a KV_CACHE_RL_CACHE that cannot be made."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("KV_CACHE_RL_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path


@pytest.fixture
def said(monkeypatch) -> None:
    """Nothing was said so far."""
    monkeypatch.setattr(code_cache, "_said", set())


def test_the_fallback_cache_belongs_to_one_user_and_only_they_can_enter_it(temporary):
    own = temporary / f"kv-cache-rl-{os.getuid()}"
    for _ in range(2):
        assert jit._cache_folder().parent == own
        assert stat.S_IMODE(own.stat().st_mode) == 0o700
        own.chmod(0o777)


def test_a_fallback_cache_of_another_user_is_refused_with_the_remedy(temporary, monkeypatch):
    me = os.getuid()
    jit._private(temporary / f"kv-cache-rl-{me + 1}")
    monkeypatch.setattr(os, "getuid", lambda: me + 1)
    with pytest.raises(
        FileExistsError, match="belongs to another user; set KV_CACHE_RL_CACHE to a folder of your own"
    ):
        jit._cache_folder()


def test_a_cache_folder_that_cannot_be_written_is_named_with_the_one_that_is_used(temporary, capsys, said):
    found = jit._cache_folder()
    own = temporary / f"kv-cache-rl-{os.getuid()}"
    line = capsys.readouterr().err
    assert found.parent == own and line.startswith(
        f"note: compiled code cannot be kept in {temporary}/file ("
    )
    assert f"so it is kept in {own}; set KV_CACHE_RL_CACHE to a folder" in line


def test_a_system_without_any_folder_to_write_to_compiles_in_every_process(
    temporary, capsys, said, monkeypatch
):
    def nowhere():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    assert jit._cache_folder().parent == temporary / "file"
    line = capsys.readouterr().err
    assert "nor in a temporary folder, so every process compiles it again; set KV_CACHE_RL_CACHE" in line


def test_a_read_only_cache_that_holds_code_is_used_without_a_word(tmp_path, capsys, said, monkeypatch):
    monkeypatch.setenv("KV_CACHE_RL_CACHE", str(tmp_path))
    folder = jit._cache_folder()
    (folder / "core").mkdir()
    (folder / "core" / "one.nbi").touch()

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert jit._cache_folder() == folder and capsys.readouterr().err == ""


@jit.uncounted
def _doubled(row, by):
    return 2.0 * row[by]


@jit.uncounted
def _negated(row, by):
    return -row[by]


_folded = jit.folded((_doubled, _negated, _doubled))


@jit.uncounted
def _called(which, row, by):
    return _folded(which, row, by)


def test_a_folded_registry_calls_the_function_of_the_index_and_the_last_one_beyond():
    row = np.array([1.0, 3.0])
    assert [_called(which, row, 1) for which in range(4)] == [6.0, -3.0, 6.0, 6.0]


def test_a_function_that_calls_a_folded_registry_is_loaded_from_the_disk_cache_by_the_next_process(tmp_path):
    program = (
        "import numpy as np; from kv_cache_rl.core.candidates import CANDIDATE_COLS;"
        "from kv_cache_rl.policies.rank import rank;"
        "rank(3, np.ones(CANDIDATE_COLS)); found = rank.stats;"
        "print(sum(found.cache_hits.values()), sum(found.cache_misses.values()))"
    )
    environment = {**os.environ, "KV_CACHE_RL_CACHE": str(tmp_path)}
    runs = [
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
        )
        for _ in range(2)
    ]
    assert [run.stdout.split() for run in runs] == [["0", "1"], ["1", "0"]]

"""Where compiled code is kept when the usual cache folder cannot be written."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from kv_cache_rl import jit


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """A temporary folder of the test's own, and a KV_CACHE_RL_CACHE that cannot be made."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("KV_CACHE_RL_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path


def test_the_fallback_cache_belongs_to_one_user_and_only_they_can_enter_it(temporary):
    own = temporary / f"kv-cache-rl-{os.getuid()}"
    for _ in range(2):
        assert jit._cache_folder().parent == own
        assert stat.S_IMODE(own.stat().st_mode) == 0o700
        own.chmod(0o777)


def test_a_fallback_cache_of_somebody_else_is_refused_with_the_remedy(temporary, monkeypatch):
    me = os.getuid()
    jit._private(temporary / f"kv-cache-rl-{me + 1}")
    monkeypatch.setattr(os, "getuid", lambda: me + 1)
    with pytest.raises(
        FileExistsError, match="belongs to another user; set KV_CACHE_RL_CACHE to a folder of your own"
    ):
        jit._cache_folder()

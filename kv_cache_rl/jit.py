"""Numba's `njit` with a disk cache that notices every change of this package.

Numba keys its cache on the file of the outer function only, so that a change in a module it calls would go unnoticed; here
the cache folder is named after a digest of the layers that hold compiled code. `KV_CACHE_RL_CACHE` moves it.
"""

import functools
import hashlib
import os
import tempfile
from pathlib import Path

import numba


def _cache_folder() -> Path:
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for source in sorted(s for layer in ("core", "policies", "sim", "search") for s in (root / layer).rglob("*.py")):
        digest.update(source.relative_to(root).as_posix().encode())
        digest.update(source.read_bytes())
    base = os.environ.get("KV_CACHE_RL_CACHE") or os.path.join(os.path.expanduser("~"), ".cache", "kv-cache-rl")
    folder = Path(base) / digest.hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / "kv-cache-rl" / digest.hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
    return folder


# Numba fills this module from the environment at import, so that no checker sees the name.
numba.config.CACHE_DIR = str(_cache_folder())  # pyrefly: ignore[missing-attribute]
njit = functools.partial(numba.njit, cache=True)

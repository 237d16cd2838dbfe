"""A copy of the package with a few lines added, and programs that run in it.

Tests of "one function and one line" add their function here.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def edited(folder: Path, file: str, *edits: tuple[str, str]) -> Path:
    """The folder, with a copy of the package in it and code added to one of the copy's files.

    An edit is (line, code): the code goes before the line, which occurs once.
    """
    if not (folder / "kv_cache_rl").exists():
        shutil.copytree(
            ROOT / "kv_cache_rl", folder / "kv_cache_rl", ignore=shutil.ignore_patterns("__pycache__")
        )
    path = folder / "kv_cache_rl" / file
    text = path.read_text(encoding="utf-8")
    for line, code in edits:
        assert text.count(line) == 1, f"{file} has {line!r} {text.count(line)} times"
        text = text.replace(line, code + line)
    path.write_text(text, encoding="utf-8")
    return folder


def execute(folder: Path, *arguments: object, **environment: str) -> str:
    """What a Python program prints, run in `folder` with the package that lies there."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def command(folder: Path, line: str, **environment: str) -> str:
    """What ``kv-cache-rl LINE`` prints with the package in `folder`; interpreted, so nothing is compiled."""
    program = (
        f"from kv_cache_rl.cli import main; import sys; sys.argv = ['kv-cache-rl', *{line!r}.split()]; main()"
    )
    return execute(folder, "-c", program, NUMBA_DISABLE_JIT="1", **environment)

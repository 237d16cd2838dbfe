"""A real engine on the CPU, the recordings that the main tests read, and the command line in this process."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kv_cache_rl.cli import app

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests/golden/engine"
TIMES = ("ts", "time_s", "arrived_s", "started_s", "done_s")


@dataclass(frozen=True)
class Said:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def kv(tmp_path, monkeypatch):
    """Runs a command in an empty folder, in this process."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Said(result.exit_code, result.stdout, result.stderr)

    return run


def started(*arguments, folder):
    """The same in a process of its own, which can be killed."""
    code = "import sys; sys.argv[0] = 'kv-cache-rl'; from kv_cache_rl.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=folder,
        env=os.environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def without_times(path):
    """The lines of a recording's file, but for what a clock said."""
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def arguments_of(name):
    """The command that made a recording, but for its folder."""
    words = json.loads((GOLDEN / name / "config.json").read_text())["command"].split()
    return words[1 : words.index("--out")]

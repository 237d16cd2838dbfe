"""The recordings that the main tests read, and commands in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests/golden/engine"
TIMES = ("ts", "time_s", "arrived_s", "started_s", "done_s")


def started(*arguments, folder):
    """A command in a process of its own, which can be killed."""
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

"""The commands of the environment's README run as they stand there."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PACKAGE

ROOT = PACKAGE.parents[1]
HERE = r"<!-- not run: here; tests/environments/test_readme.py [^\n]*-->\n```bash\n(.*?)```"
BLOCKS = re.findall(HERE, (PACKAGE / "README.md").read_text(), re.S)
INSTALL = "pip install -e . -e environments/kv_cache_eviction"


def usable_port(wanted: int) -> int:
    """The port itself, or a free one where something else has it."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise AssertionError("no port is free")


@pytest.fixture
def shell(tmp_path):
    """shell(script) → what it printed, in an empty folder; `pip install` of the checkout is done already."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("pip", "uv"):
        (commands / name).write_text(f'#!/bin/sh\necho "{name} $*"\n')
        (commands / name).chmod(0o755)
    (tmp_path / "environments").symlink_to(ROOT / "environments")
    search = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])

    def run(script: str) -> str:
        script = f"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}"
        done = subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=tmp_path,
            env={**os.environ, "PATH": search},
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    return run


def test_the_quickstart_runs_as_it_stands(shell, tmp_path):
    first, afterwards = BLOCKS
    assert first.startswith(INSTALL)
    port = usable_port(8000)
    shell(first.replace("8000", str(port)))
    [run] = (tmp_path / "outputs").iterdir()
    scores = re.findall(r'"normalized_score":\{"score":(-?[\d.]+)', (run / "traces.jsonl").read_text())
    assert len(scores) == 6 and sum(map(float, scores)) > 0

    shell(afterwards.replace("RUN", run.name))
    [replayed] = (tmp_path / "outputs").glob("*--replay/*/traces.jsonl")
    again = re.findall(r'"normalized_score":\{"score":(-?[\d.]+)', replayed.read_text())
    assert sorted(again) == sorted(scores), "either file has its rollouts as they ended"


def test_vf_replay_needs_no_flag_on_a_run_of_kv_cache_rl_eval(shell, tmp_path):
    shell("kv-cache-rl eval -p lru -n 2 -d easy --out mine")
    [run] = (tmp_path / "mine").iterdir()
    shell(f"vf-replay {run}/lru")
    [replayed] = (tmp_path / "outputs").glob("*--replay/*/traces.jsonl")
    assert len(replayed.read_text().splitlines()) == 2

"""The README's commands and examples do what it says."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("  #")[0].strip()
    for block in re.findall(r"<!-- tested -->\n```bash\n(.*?)```", README, re.S)
    for line in block.splitlines()
    if line.strip()
]


def test_the_readme_has_commands_to_test():
    assert len(COMMANDS) >= 4


@pytest.mark.parametrize("command", COMMANDS)
def test_a_readme_command_succeeds_and_says_something(command):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    # `head` closes the pipe early; the command before it may then end by a broken pipe.
    assert done.returncode in ((0, 141, 1) if "| head" in command else (0,)), done.stderr
    assert done.stdout or "> /dev/null" in command


def test_the_readme_python_examples_hold():
    found = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert found.attempted >= 4
    assert found.failed == 0


def test_every_folder_the_readme_names_exists():
    for name in re.findall(r"`((?:kv_cache_rl|environments|scenarios)/[\w/]*)`", README):
        assert (ROOT / name).exists(), name

"""The examples of docs/api_http.md, run as they stand against a server on another port."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT, blocks

from kv_cache_rl.adapters.http import load

PAGE = ROOT / "docs" / "api_http.md"
HERE = "not run: tests/adapters/http/test_examples.py runs it"
EXAMPLES = [block for block in blocks(PAGE) if block.mark == HERE]


@pytest.fixture(scope="module")
def server():
    with load.running() as (url, _):
        yield url


def test_the_page_has_examples_of_every_part():
    assert len(EXAMPLES) >= 8


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda block: f"line {block.line}")
def test_an_example_succeeds_and_says_something(server, example, tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "kv-cache-rl"
    program.write_text(f"#!{sys.executable}\nfrom kv_cache_rl.cli import main\nmain()\n")
    program.chmod(0o755)
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    python_path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    code = example.code.replace("http://127.0.0.1:7860", server).replace(
        "curl -s", "curl -sS --fail-with-body "
    )
    assert server in code
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code.replace("curl -s", "curl --fail-with-body -Ss")],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "PYTHONPATH": python_path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout[-2_000:]}\n{done.stderr}"
    assert done.stdout

"""What docs/ and examples/ say is done: the guide's edits are made in a copy of the package, the scripts run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "adding_a_policy.md").read_text(encoding="utf-8")


def block(name):
    """The code of the guide under a marker."""
    (found,) = re.findall(rf"<!-- {re.escape(name)} -->\n```python\n(.*?)```", GUIDE, re.S)
    return found


def execute(folder, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def edited(tmp_path_factory):
    """A copy of the package with the edits of the guide."""
    folder = tmp_path_factory.mktemp("edited")
    shutil.copytree(
        ROOT / "kv_cache_rl", folder / "kv_cache_rl", ignore=shutil.ignore_patterns("__pycache__")
    )
    path = folder / "kv_cache_rl" / "policies" / "rank.py"
    text = path.read_text(encoding="utf-8")
    for place, code, after in (
        ("RANKS = {\n", block("function") + "\n\n", False),
        ('    "random": random,\n', block("line"), True),
        ("        return ttl(c)\n", block("entry"), True),
    ):
        assert text.count(place) == 1
        text = text.replace(place, place + code if after else code + place)
    path.write_text(text, encoding="utf-8")
    return folder


def test_a_policy_added_as_the_guide_says_replays_like_its_reference(edited):
    script = edited / "check.py"
    script.write_text(block("reference") + "\n\n" + block("check") + "print('agrees')\n", encoding="utf-8")
    assert execute(edited, script, NUMBA_DISABLE_JIT="1") == "agrees\n"


def test_a_policy_added_as_the_guide_says_is_known_to_the_commands(edited):
    program = (
        "from kv_cache_rl.cli import main; import sys;"
        "sys.argv = 'kv hierarchy replay workload:rag_burst --policy uses_per_byte --capacity 24 --json'.split(); main()"
    )
    assert '"policy": "uses_per_byte"' in execute(edited, "-c", program, NUMBA_DISABLE_JIT="1")


def test_what_the_guide_quotes_stands_in_the_file_it_names():
    quoted = re.findall(r"<!-- quoted: (\S+) -->\n```python\n(.*?)```", GUIDE, re.S)
    assert quoted
    for name, code in quoted:
        assert code in (ROOT / name).read_text(encoding="utf-8")


def test_the_policy_tried_in_the_example_is_the_guides():
    body = block("function").split("\n", 1)[1]
    assert body in (ROOT / "examples" / "add_a_policy.py").read_text(encoding="utf-8")


def test_the_example_tries_a_policy_without_editing_the_package():
    out = execute(ROOT, ROOT / "examples" / "add_a_policy.py")
    header, *lines = out.splitlines()[1:]
    assert header.split() == ["share", "uses_per_byte", "lru", "lfu", "gdsf", "largest_first", "bound"]
    assert len(lines) == 4
    for line in lines:
        *rates, bound = map(float, line.split()[1:])
        assert max(rates) <= bound


def test_the_replay_example_runs_on_a_workload_and_on_a_file(tmp_path):
    out = execute(ROOT, ROOT / "examples" / "hierarchy_replay.py")
    assert "Belady's MIN" in out and "overlapped" in out
    path = tmp_path / "tree.jsonl"
    lines = [
        '{"format": "kv-cache-rl trace", "version": 1, "kind": "requests", "name": "tree", "block_tokens": 16}'
    ]
    lines += [
        f'{{"time_s": {k}, "sequence": {k % 3}, "runs": [[0, 4], [{4 + 10 * (k % 3)}, {2 + k // 3}]]}}'
        for k in range(12)
    ]
    path.write_text("\n".join(lines) + "\n")
    assert "prefix-closed MIN" in execute(ROOT, ROOT / "examples" / "hierarchy_replay.py", path)

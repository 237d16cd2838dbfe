"""What docs/ and examples/ say is done: the guide's edits in a copy of the package, the scripts here."""

import re
from pathlib import Path

import pytest
from editing import command, edited, execute

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "adding_a_policy.md").read_text(encoding="utf-8")


def block(name):
    """The code of the guide under a marker."""
    (found,) = re.findall(rf"<!-- {re.escape(name)} -->\n```python\n(.*?)```", GUIDE, re.S)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the package with the edits of the guide."""
    folder = edited(
        tmp_path_factory.mktemp("edited"),
        "policies/rank.py",
        ("RANKS: dict[str, Rank] = {\n", block("function") + "\n\n"),
        ("}\nRANK_IDS", block("line")),
    )
    queues = Path("sim/hierarchy/queues")
    (folder / "kv_cache_rl" / queues / "second_chance.py").write_text(block("queue"), encoding="utf-8")
    return edited(
        folder,
        str(queues / "__init__.py"),
        ("from kv_cache_rl.sim.hierarchy.state import", block("queue import")),
        ("}\nQUEUE_IDS", block("queue line")),
    )


def test_a_policy_added_as_the_guide_says_replays_like_its_reference(folder):
    script = folder / "check.py"
    script.write_text(block("reference") + "\n\n" + block("check") + "print('agrees')\n", encoding="utf-8")
    assert execute(folder, script, NUMBA_DISABLE_JIT="1") == "agrees\n"


@pytest.mark.parametrize("policy", ["uses_per_byte", "second_chance"])
def test_a_policy_added_as_the_guide_says_is_known_to_the_commands(folder, policy):
    line = f"hierarchy replay workload:rag_burst --policy {policy} --capacity 24 --json"
    assert f'"policy": "{policy}"' in command(folder, line)


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
        '{"format": "kv-cache-rl trace", "version": 1, "kind": "requests", "name": "tree", '
        '"block_tokens": 16}'
    ]
    lines += [
        f'{{"time_s": {k}, "sequence": {k % 3}, "runs": [[0, 4], [{4 + 10 * (k % 3)}, {2 + k // 3}]]}}'
        for k in range(12)
    ]
    path.write_text("\n".join(lines) + "\n")
    assert "prefix-closed MIN" in execute(ROOT, ROOT / "examples" / "hierarchy_replay.py", path)

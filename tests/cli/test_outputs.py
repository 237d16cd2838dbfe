"""What a command writes never takes the place of what it reads, nor of another run."""

import json
import sys

import pytest

AGENT = """from pathlib import Path

class Idle:
    name = "idle"
    weights = Path(__file__).parent / "held.json"
    def reset(self, seed=0):
        pass
    def act(self, seen, mask):
        return 17
"""
SHORT = ("--task", "easy", "--ticks", "20")


@pytest.fixture
def run(kv, tmp_path):
    """A run folder, and its files as they were."""
    assert kv("baselines", "-p", "lru", "-n", 1, "-d", "easy", "--out", "run").code == 0
    return {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}


@pytest.mark.parametrize(
    "other",
    [("-p", "keep", "-n", 1, "-d", "easy"), ("-p", "lru", "-n", 2, "-d", "easy"), ("-p", "lru", "-n", 1)],
)
def test_a_run_is_not_replaced_by_one_that_was_asked_for_otherwise(kv, run, other):
    said = kv("baselines", *other, "--out", "run")
    assert said.code == 2 and "run holds another run" in said.err and "another --out" in said.err
    assert all(path.read_bytes() == data for path, data in run.items())
    assert kv("baselines", "-p", "lru", "-n", 1, "-d", "easy", "--out", "run").code == 0


@pytest.mark.parametrize(
    "command",
    ["hierarchy sweep --out afile", "serving evaluate -p lru -t easy --ticks 9 --out afile/below"],
)
def test_a_file_in_the_place_of_a_folder_saves_nothing(kv, tmp_path, command):
    (tmp_path / "afile").write_text("mine")
    said = kv(*command.split())
    assert said.code == 2 and "afile is a file, not a folder; give another path\n" in said.err
    assert "go on" not in said.err and (tmp_path / "afile").read_text() == "mine"


def test_an_evaluation_is_not_replaced_by_baselines(kv, run, tmp_path):
    config = tmp_path / "run" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"command": "eval"}))
    said = kv("baselines", "-p", "lru", "-n", 1, "-d", "easy", "--out", "run")
    assert said.code == 2 and 'command "eval", not "baselines"' in said.err
    config.unlink()
    said = kv("baselines", "-p", "lru", "-n", 1, "-d", "easy", "--out", "run")
    assert said.code == 2 and "holds results.jsonl of another run" in said.err


@pytest.mark.parametrize("name", ["config.json", "results.jsonl", "summary.json", "lru/traces.jsonl"])
def test_a_report_is_not_written_over_its_run(kv, run, tmp_path, name):
    (tmp_path / "run" / "lru").mkdir()
    (tmp_path / "run" / "lru" / "traces.jsonl").write_text("{}\n")
    before = (tmp_path / "run" / name).read_bytes()
    said = kv("report", "run", "--out", f"run/{name}")
    assert said.code == 2 and f"run/{name} is a file of run, which this command reads" in said.err
    assert (tmp_path / "run" / name).read_bytes() == before


def test_a_report_may_stand_in_its_run_and_be_written_again(kv, run):
    for _ in range(2):
        assert kv("report", "run", "--out", "run/page.html").code == 0
    assert "1 rollout)" in kv("report", "run").out


@pytest.mark.parametrize("name", ["mine_idle.py", "held.json"])
@pytest.mark.parametrize("agent", ["mine_idle.py:Idle", "mine_idle:Idle"])
def test_a_log_is_not_written_over_the_agent_that_plays(kv, tmp_path, monkeypatch, name, agent):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine_idle", raising=False)
    (tmp_path / "mine_idle.py").write_text(AGENT)
    (tmp_path / "held.json").write_text("[]")
    before = (tmp_path / name).read_bytes()
    said = kv("serving", "simulate", "--agent", agent, *SHORT, "--log", f"./{name}")
    assert said.code == 2 and "is a file that this command reads" in said.err
    assert (tmp_path / name).read_bytes() == before


def test_a_validation_is_not_replaced_by_one_of_another_seed(kv, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "validation.json").write_text('{"seed": 0, "fast": false}')
    said = kv("stability", "validate", "--fast", "--out", "out")
    assert said.code == 2 and "fast false, not true" in said.err

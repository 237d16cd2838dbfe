"""Telemetry: every tick of an evaluation, read back by `datasets`, the same as the log of the episode."""

import json

import pytest
from typer.testing import CliRunner

pytest.importorskip("datasets", reason="the extra `eval` with datasets is not installed")

from datasets import load_dataset

from kv_cache_rl.cli import app
from kv_cache_rl.experiments.serving.telemetry import COLUMNS
from kv_cache_rl.sim.serving.actions import ACTIONS
from kv_cache_rl.sim.serving.seeds import SEEDS

SHORT = ("--task", "medium", "--ticks", "40", "--rho", "1.5")


@pytest.fixture
def evaluate(tmp_path):
    """evaluate(*options) -> the result; episodes and telemetry in folders of the test."""

    def evaluate(*options):
        where = ("--out", str(tmp_path / "out"), "--telemetry", str(tmp_path / "telemetry"))
        words = ("--seeds", "2", *SHORT, *options)
        given = [word for pair in dict(zip(words[::2], words[1::2], strict=True)).items() for word in pair]
        return CliRunner().invoke(app, ["serving", "evaluate", *given, *where, "--json"])

    return evaluate


def test_a_row_is_a_tick_and_says_what_the_log_says(evaluate, tmp_path):
    done = evaluate("--policy", "lru,stability", "--workers", "2")
    assert done.exit_code == 0, done.stderr
    folder = tmp_path / "telemetry"
    files = sorted(str(path) for path in folder.glob("data/*.parquet"))
    assert len(files) == 4 and sum(len(open(path, "rb").read()) for path in files) < 200_000
    rows = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert list(rows.features) == list(COLUMNS) and rows.features["actions"].feature.names == list(ACTIONS)
    reports = {(one["agent"], one["seed"]): one["report"] for one in json.loads(done.stdout)["episodes"]}
    log = tmp_path / "log.jsonl"
    seed = SEEDS["test"][1]
    words = ["serving", "simulate", *SHORT, "--policy", "stability", "--seed", str(seed), "--log", str(log)]
    assert CliRunner().invoke(app, words).exit_code == 0
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    mine = rows.filter(lambda row: row["agent"] == "stability" and row["seed"] == seed)
    assert len(mine) == len(logged) == reports["stability", seed]["ticks"] > 40
    for row, line in zip(mine, logged, strict=True):
        assert [ACTIONS[action] for action in row["actions"]] == list(line["actions"])
        for name in ("tick", "clock_s", "active", "arrived", "completed", "free_queue", "vip_queue"):
            assert row[name] == line[name]
        assert row["reward"] == pytest.approx(line["reward"], rel=1e-6, abs=1e-6)
    for (agent, number), report in reports.items():
        reward = sum(rows.filter(lambda r, a=agent, n=number: r["agent"] == a and r["seed"] == n)["reward"])
        assert reward == pytest.approx(report["total_reward"], rel=1e-4)


def test_the_folder_loads_by_itself_and_its_card_names_every_column(evaluate, tmp_path):
    assert evaluate("--policy", "lru").exit_code == 0
    folder = tmp_path / "telemetry"
    assert len(load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))) > 80
    card = (folder / "README.md").read_text()
    assert all(f"| `{name}` |" in card for name in COLUMNS) and "kv-cache-rl" in card


def test_what_is_there_is_not_played_again_and_a_lost_file_is(evaluate, tmp_path):
    assert evaluate("--policy", "lru").exit_code == 0
    files = sorted((tmp_path / "telemetry" / "data").iterdir())
    before = [path.stat().st_mtime_ns for path in files]
    bytes_of = files[0].read_bytes()
    files[0].unlink()
    assert evaluate("--policy", "lru").exit_code == 0
    assert files[0].read_bytes() == bytes_of and files[1].stat().st_mtime_ns == before[1]


def test_a_folder_of_another_plan_is_refused_before_anything_is_played(evaluate, tmp_path):
    assert evaluate("--policy", "lru", "--seeds", "1").exit_code == 0
    folder = tmp_path / "telemetry"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    rows = (tmp_path / "out" / "rows.jsonl").read_bytes()
    for options, what in (
        (("--policy", "fifo", "--seeds", "1"), "agents"),
        (("--policy", "lru", "--seeds", "2"), "seeds"),
        (("--policy", "lru", "--seeds", "1", "--ticks", "50"), "medium ticks 40, not 50"),
        (("--policy", "lru", "--seeds", "1", "--task", "easy"), "tasks"),
    ):
        refused = evaluate(*options)
        said = " ".join(refused.stderr.split())
        assert refused.exit_code == 2 and f"holds another run ({what}" in said, said
        assert "give another --telemetry" in said
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert (tmp_path / "out" / "rows.jsonl").read_bytes() == rows
    (folder / "plan.json").unlink()
    refused = evaluate("--policy", "lru", "--seeds", "1")
    assert refused.exit_code == 2 and "do not say what they are of" in " ".join(refused.stderr.split())


def test_a_set_without_an_agent_that_can_be_recorded_is_refused(evaluate, tmp_path):
    refused = evaluate("--policy", "llm")
    assert refused.exit_code == 2 and "add one, such as --policy lru" in " ".join(refused.stderr.split())
    assert not (tmp_path / "telemetry").exists()


def test_an_agent_that_fails_has_no_file(evaluate, tmp_path):
    agent = tmp_path / "bad.py"
    agent.write_text(
        "class Bad:\n    def reset(self, seed=0): ...\n    def act(self, seen, mask): return 99\n"
    )
    done = evaluate("--policy", f"lru,{agent}:Bad")
    assert done.exit_code == 1 and "action is 99" in done.stderr
    assert len(list((tmp_path / "telemetry" / "data").iterdir())) == 2

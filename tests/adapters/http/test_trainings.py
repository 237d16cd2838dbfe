"""Trainings over HTTP: listed, opened while they run, and what has become of one that ended."""

import json
import os

import pytest

from kv_cache_rl.adapters.http.trainings import LEARNERS
from kv_cache_rl.agents import checkpoint
from kv_cache_rl.agents.qlearning import Progress, Training
from kv_cache_rl.agents.training.plan import USUAL
from kv_cache_rl.cli.saved import only_writer
from kv_cache_rl.cli.serving.train import TRAINABLE

ROUTE = "/api/trainings"
POINTS = [
    {"episode": 16, "epsilon": 0.1, "return": 3.0, "select": {"easy": 0.8, "hard": 0.4}},
    {"episode": 32, "epsilon": 0.05, "return": 4.0, "select": {"easy": 0.9, "hard": 0.5}},
]


def saved(folder, episode=20, curve=POINTS[:1]):
    folder.mkdir(parents=True, exist_ok=True)
    progress = Progress(episode=episode, curve=list(curve))
    checkpoint.save(folder / "qlearning.checkpoint", Training(episodes=64), "code", progress)
    return folder


def finished(folder, agent="ppo"):
    folder.mkdir(parents=True, exist_ok=True)
    curve = [{"round": 1, "kind": "imitates", "select": {"easy": 0.7}}]
    plan = {"agent": agent, "rounds": 1, "select": 32}
    (folder / f"{agent}.json").write_text(json.dumps({"command": "x", "training": plan, "curve": curve}))


def test_every_agent_that_can_be_trained_is_looked_for():
    assert set(LEARNERS) == set(TRAINABLE)
    assert set(USUAL) < set(LEARNERS)


def test_a_training_that_runs_shows_its_curve_and_how_far_it_is(asked_with, tmp_path):
    folder = saved(tmp_path / "serving" / "train")
    ask = asked_with(runs=tmp_path)
    with only_writer(folder, "training"):
        found = ask("GET", f"{ROUTE}/serving/train/qlearning").json()
        (listed,) = ask("GET", ROUTE).json()["trainings"]
    assert found["curve"] == POINTS[:1] and found["plan"]["episodes"] == 64
    assert (found["status"], found["done"], found["total"]) == ("running", 20, 64)
    assert listed == {name: value for name, value in found.items() if name not in ("curve", "plan")}
    saved(folder, 40, POINTS)
    assert ask("GET", f"{ROUTE}/serving/train/qlearning").json()["curve"] == POINTS


def test_the_list_reads_a_file_again_only_once_it_has_changed(asked_with, tmp_path, monkeypatch):
    reads = []
    stored = checkpoint.stored
    monkeypatch.setattr(checkpoint, "stored", lambda path: reads.append(path) or stored(path))
    ask, folder = asked_with(runs=tmp_path), saved(tmp_path / "one", 20)
    assert [ask("GET", ROUTE).json()["trainings"][0]["done"] for _ in range(3)] == [20] * 3
    saved(folder, 40)
    assert [ask("GET", ROUTE).json()["trainings"][0]["done"] for _ in range(3)] == [40] * 3
    assert len(reads) == 2


def test_looking_at_a_training_does_not_keep_one_from_beginning(asked_with, tmp_path):
    folder = saved(tmp_path / "one")
    assert asked_with(runs=tmp_path)("GET", f"{ROUTE}/one/qlearning").json()["status"] == "stopped"
    with only_writer(folder, "training"):
        pass


def test_a_training_that_stopped_says_its_last_words(asked_with, tmp_path):
    folder = saved(tmp_path / "one")
    (folder / "qlearning.log").write_text("begun\nerror: no room on the disk; make room\n\n")
    found = asked_with(runs=tmp_path)("GET", f"{ROUTE}/one/qlearning").json()
    assert (found["status"], found["said"]) == ("stopped", "error: no room on the disk; make room")


def test_a_training_that_never_began_is_known_by_its_log(asked_with, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "neural.log").write_text("error: training neural needs stable_baselines3")
    (found,) = asked_with(runs=tmp_path)("GET", ROUTE).json()["trainings"]
    assert (found["training"], found["status"], found["total"]) == ("one/neural", "stopped", None)
    assert "stable_baselines3" in found["said"]


def test_a_finished_training_is_finished(asked_with, tmp_path):
    finished(tmp_path / "one")
    found = asked_with(runs=tmp_path)("GET", f"{ROUTE}/one/ppo").json()
    assert (found["status"], found["done"], found["total"], found["counted_in"]) == (
        "finished",
        1,
        1,
        "round",
    )
    assert "command" not in found["plan"]


def test_the_newest_training_comes_first(asked_with, tmp_path):
    finished(tmp_path / "b")
    saved(tmp_path / "a")
    for name, at in (("a/qlearning.checkpoint", 100), ("b/ppo.json", 200)):
        os.utime(tmp_path / name, (at, at))
    found = asked_with(runs=tmp_path)("GET", ROUTE).json()["trainings"]
    assert [one["training"] for one in found] == ["b/ppo", "a/qlearning"]


@pytest.mark.parametrize(
    "content", [b"", b"no checkpoint", b"a" * 64 + b"\nzip", None], ids=["empty", "text", "digest", "cut off"]
)
def test_a_damaged_checkpoint_is_named_and_the_others_are_shown(asked_with, tmp_path, content):
    path = saved(tmp_path / "one") / "qlearning.checkpoint"
    path.write_bytes(path.read_bytes()[:-9] if content is None else content)
    finished(tmp_path / "two")
    found = {one["training"]: one for one in asked_with(runs=tmp_path)("GET", ROUTE).json()["trainings"]}
    assert "is no checkpoint, or was changed or cut off" in found["one/qlearning"]["problem"]
    assert str(tmp_path) not in found["one/qlearning"]["problem"]
    assert found["two/ppo"]["problem"] is None


@pytest.mark.parametrize(
    "record",
    [[], {}, {"training": 3, "curve": []}, {"training": {"episodes": 3}, "curve": [{"episode": 1}]},
     {"training": {"episodes": "x"}, "curve": []}, {"training": {"episodes": 1}, "curve": [7]},
     {"training": {"episodes": 1}, "curve": [{"episode": 1, "select": {"easy": 10**400}}]}],
)  # fmt: skip
def test_a_file_of_that_name_that_is_no_record_is_named(asked_with, tmp_path, record):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "ppo.json").write_text(json.dumps(record))
    found = asked_with(runs=tmp_path)("GET", f"{ROUTE}/one/ppo").json()
    assert found["problem"].startswith("one/ppo.json is no training of a serving agent"), found["problem"]
    assert found["curve"] == []


@pytest.mark.parametrize(
    "name",
    [
        *("nothing", "one", "one/lru", "one//qlearning"),
        *("one/%2e%2e/one/qlearning", "%2e/one/qlearning", "%2e%2e/one/qlearning"),
    ],
)
def test_any_other_name_is_no_training(asked_with, tmp_path, name):
    saved(tmp_path / "runs" / "one")
    saved(tmp_path / "one")
    error = asked_with(runs=tmp_path / "runs").error("GET", f"{ROUTE}/{name}", 404)
    assert "GET /api/trainings lists them" in error["message"]


def test_a_link_out_of_the_folder_leads_nowhere(asked_with, tmp_path):
    saved(tmp_path / "secret")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "one").symlink_to(tmp_path / "secret")
    ask = asked_with(runs=tmp_path / "runs")
    assert ask("GET", ROUTE).json() == {"trainings": []}
    ask.error("GET", f"{ROUTE}/one/qlearning", 404)


def test_without_a_folder_there_are_no_trainings(ask):
    assert ask("GET", ROUTE).json() == {"trainings": []}
    assert "--runs DIR" in ask.error("GET", f"{ROUTE}/one/ppo", 404)["message"]


def test_a_training_that_is_deleted_while_it_is_read_hides_no_other(asked_with, tmp_path, monkeypatch):
    saved(tmp_path / "good")
    gone = saved(tmp_path / "gone") / "qlearning.checkpoint"
    read = checkpoint.stored

    def deleted(path):
        if path == gone:
            gone.unlink()
        return read(path)

    monkeypatch.setattr(checkpoint, "stored", deleted)
    ask = asked_with(runs=tmp_path)
    assert [one["training"] for one in ask("GET", ROUTE).json()["trainings"]] == ["good/qlearning"]
    saved(tmp_path / "gone")
    error = ask.error("GET", f"{ROUTE}/gone/qlearning", 404)
    assert error["message"] == "qlearning.checkpoint was deleted while it was read; ask again"

"""The training command: files, what it says, how it goes on, and what it refuses."""

import json
import sys

import pytest

from kv_cache_rl.experiments.eviction import courses
from kv_cache_rl.experiments.eviction.training import school
from kv_cache_rl.sim.eviction import load_scenarios
from kv_cache_rl.sim.eviction.trained import read_learned, read_tuned

pytest.importorskip("cma")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A school of few scenarios."""
    found = school(load_scenarios(split="train", num_examples=12), load_scenarios(num_examples=3))
    monkeypatch.setattr(
        courses, "usual_school", lambda folder, tell: (folder / "lessons").mkdir(exist_ok=True) or found
    )


def test_train_writes_weights_and_how_they_were_made(kv, tmp_path):
    said = kv("eviction", "train", "--generations", "1", "--out", "made", "--plot", "a.svg", "--json").json
    names = ["tuned.json", "tuned.training.json", "learned.safetensors", "learned.training.json"]
    assert said["files"] == [*(f"made/{name}" for name in names), "a.svg"]
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == sorted(names)
    for name in ("tuned", "learned"):
        record = json.loads((tmp_path / "made" / f"{name}.training.json").read_text())
        assert record["command"] == said["command"] and record["training"]["generations"] == 1
        assert record["curve"] == said["deciders"][name]["curve"]
        assert [point["generation"] for point in record["curve"]] == [0, 1]
    kept = read_tuned(tmp_path / "made" / "tuned.json").about["scores"]["select"]
    assert read_learned(tmp_path / "made" / "learned.safetensors").about["decider"] == "learned"
    begun = said["deciders"]["learned"]["curve"][0]["select"]
    assert begun == pytest.approx(kept, abs=1e-6), "the network begins with the new constants"


def test_a_stopped_training_goes_on_to_the_same_bytes(kv, tmp_path, monkeypatch):
    command = ("train", "--policy", "tuned", "--generations", "2", "--out")
    assert kv(*command, "whole").code == 0
    from kv_cache_rl.experiments.journal import Journal

    add = Journal.add

    def until(self, key, row):
        add(self, key, row)
        if key == "generation 1":
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "add", until)
    stopped = kv(*command, "made")
    assert stopped.code == 130
    assert "1 of 2 generations are saved in made; go on with: kv-cache-rl" in stopped.err
    monkeypatch.setattr(Journal, "add", add)
    assert kv(*command, "made").code == 0
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == [
        "tuned.json",
        "tuned.training.json",
    ]
    assert (tmp_path / "made" / "tuned.json").read_bytes() == (tmp_path / "whole" / "tuned.json").read_bytes()


def test_a_journal_of_another_seed_is_refused(kv, tmp_path, monkeypatch):
    from kv_cache_rl.experiments.journal import Journal

    add = Journal.add

    def until(self, key, row):
        add(self, key, row)
        raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "add", until)
    assert kv("train", "-p", "learned", "--out", "made").code == 130
    monkeypatch.setattr(Journal, "add", add)
    said = kv("train", "-p", "learned", "--seed", "1", "--out", "made")
    assert said.code == 2 and "is of a training with another training" in said.err and "--out" in said.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--policy", "lru"], "unknown decider to train 'lru'; use one of tuned, learned"),
        (["--generations", "0"], "Invalid value for '--generations'"),
        (["--seed", "-1"], "Invalid value for '--seed'"),
        (["--plot", "a.gif"], "unknown kind of picture '.gif'"),
        (["--plot", "none/a.png"], "there is no folder none"),
    ],
)
def test_what_cannot_be_trained_is_refused(kv, words, said):
    answer = kv("train", *words)
    assert answer.code == 2 and said in answer.err


def test_without_the_extra_the_pip_command_is_named(kv, monkeypatch):
    monkeypatch.setitem(sys.modules, "cma", None)
    answer = kv("train", "--policy", "tuned", "--generations", "1")
    assert answer.code == 2 and "needs cma; pip install 'kv-cache-rl[train]'" in answer.err


def test_the_committed_set_alone_is_learned_from(kv, monkeypatch):
    found = courses.committed_school()
    tiers = [made.difficulty for made in found.select.scenarios]
    assert {made.split for made in (*found.learn.scenarios, *found.select.scenarios)} == {"train"}
    assert len(tiers) * 4 - len(found.learn.scenarios) <= len(tiers) + 3
    small = school(load_scenarios(split="train", num_examples=12), load_scenarios(num_examples=3))
    monkeypatch.setattr(courses, "committed_school", lambda: small)
    said = kv("train", "-p", "tuned", "--committed", "--generations", "1", "--out", "made", "--json").json
    beside = said["deciders"]["tuned"]["beside_shipped"]
    assert list(beside) == ["eval", "test"]
    assert beside["test"]["n"] == len(load_scenarios(split="test")) and beside["test"]["mean"] < 0

"""``kv-cache-rl engine hints``: of a run folder, for an engine."""

import json

import pytest


@pytest.fixture
def run(kv, tmp_path):
    said = kv("baselines", "-p", "lru,learned", "-n", 1, "--difficulty", "hard", "--out", "run")
    assert said.code == 0, said.err
    return tmp_path / "run"


def test_a_run_becomes_envelopes(kv, run, tmp_path):
    said = kv("engine", "hints", "run", "--out", "hints.jsonl", "--json").json
    lines = [json.loads(line) for line in (tmp_path / "hints.jsonl").read_text().splitlines()]
    assert (said["rollouts"], said["envelopes"]) == (2, len(lines))
    assert sum(said["actions"].values()) == sum(len(line["actions"]) for line in lines) > 0
    alone = kv("engine", "hints", "run", "--policy", "lru", "--json").json
    assert alone["rollouts"] == 1 and alone["messages"] == [
        one for one in lines if "/lru/" in one["message_id"]
    ]
    table = kv("engine", "hints", "run", "--soon", 9).out
    assert "retain" in table and "2 episodes" in table
    assert "1 episode," in kv("engine", "hints", "run", "--policy", "lru").out


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["nothing"], "nothing is not a run folder"),
        (["run", "--policy", "lruu"], "unknown policy 'lruu'; did you mean lru?"),
        (["run", "--scenario", "seven"], "unknown scenario 'seven'"),
        (["run", "--out", "none/x.jsonl"], "there is no folder none"),
    ],
)
def test_bad_input_ends_with_two_and_one_line(kv, run, words, problem):
    said = kv("engine", "hints", *words)
    assert said.code == 2 and problem in said.err and said.err.count("\n") == 1

"""The commands of verifiers, each run as a user would run it."""

import json
import signal
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from conftest import PACKAGE, environment
from scripted_model import ERROR_500, calls, observation, replies_so_far, says, serving

from kv_cache_rl.sim.eviction import load_scenarios


@pytest.fixture(autouse=True)
def as_a_command_leaves_it(monkeypatch):
    """The commands run in this process, which saves their start; what they change in it is put back."""
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("VF_RUN_ID", "tests")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def run(command: str, *arguments: object) -> None:
    """Runs what the console script of that name runs."""
    [script] = [found for found in entry_points(group="console_scripts") if found.name == command]
    script.load()([str(argument) for argument in arguments])


def endpoint(model) -> list[str]:
    return ["--client.base-url", model.base_url, "--client.api-key-var", "NO_KEY_NEEDED", "-m", "scripted"]


def saved(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "traces.jsonl").read_text().splitlines()]
    return sorted(rows, key=lambda row: row["task"]["data"]["idx"])


def scores(row: dict) -> dict[str, float]:
    return {name: reward["score"] for name, reward in row["traces"][0]["rewards"].items()}


def evict_first(turn: int, body: dict) -> dict:
    return calls(("evict", {"seq_id": observation(body)["visible_seq_ids"][0]}))


@pytest.fixture
def evaluate(tmp_path):
    def evaluate(model, *arguments: object) -> Path:
        where = ["-o", tmp_path, "--run.name", "run", "--no-push", "--no-rich"]
        run(
            "vf-eval",
            "kv-cache-eviction",
            "--env.taskset.num-examples",
            3,
            *("--env.taskset.view", "full"),
            *where,
            *endpoint(model),
            *arguments,
        )
        return tmp_path / "run"

    return evaluate


def test_vf_replay_scores_an_old_run_again_to_the_same_numbers(evaluate, tmp_path):
    with serving(evict_first) as model:
        folder = evaluate(model, "--env.taskset.difficulty", "hard")
    rows = saved(folder)
    assert [row["ok"] for row in rows] == [True] * 3
    assert [row["task"]["key"] for row in rows] == [
        scenario.id for scenario in load_scenarios("hard", num_examples=3)
    ]
    assert len({tuple(scores(row).items()) for row in rows}) == 3

    run("vf-replay", folder, "-o", tmp_path / "again", "--no-rich")
    again = saved(tmp_path / "again")
    assert [scores(row) for row in again] == [scores(row) for row in rows]
    assert [row["traces"][0]["metrics"] for row in again] == [row["traces"][0]["metrics"] for row in rows]

    for row in rows:  # the action log alone decides: with another one in the file, the scores are others
        row["traces"][0]["info"]["actions"] = []
    (folder / "traces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("vf-replay", folder, "-o", tmp_path / "kept", "--no-rich")
    assert [scores(row) for row in saved(tmp_path / "kept")] != [scores(row) for row in again]


def test_the_best_of_n_attempts_is_marked(evaluate):
    """As the README says it: verifiers' own env takes a sandbox elsewhere unless it is told otherwise."""
    attempt = iter(range(4))

    def script(turn: int, body: dict) -> dict:
        if not replies_so_far(body):
            tried.append(next(attempt))
        return evict_first(turn, body) if tried[-1] % 2 else calls(("keep", {}))

    tried: list[int] = []
    said = ("--env.id", "best-of-n", "--env.n", 4, "--env.agent.runtime.type", "subprocess", "-n", 1)
    with serving(script) as model:
        (row,) = saved(evaluate(model, *said, "--env.threshold", 2))
    rewards = [trace["rewards"] for trace in row["traces"]]
    totals = [sum(one["score"] * one.get("weight", 1.0) for one in found.values()) for found in rewards]
    best = [trace["metrics"]["best"] for trace in row["traces"]]
    assert len(set(totals)) == 2 and best == [float(total == max(totals)) for total in totals]
    assert {trace["metrics"]["pass_at_n"] for trace in row["traces"]} == {0.0}


def test_resume_repeats_only_what_failed(evaluate):
    down_for = {list(environment(num_examples=3).taskset)[1].data.prompt}

    def script(turn: int, body: dict) -> dict:
        return ERROR_500 if body["messages"][1]["content"] in down_for else evict_first(turn, body)

    with serving(script) as model:
        folder = evaluate(
            model, "--env.agent.harness.max-retries", 0, "--env.taskset.reward-profile", "normalized"
        )
        before = saved(folder)
        assert [row["ok"] for row in before] == [True, False, True]
        assert not before[1]["traces"][0]["rewards"]
        down_for.clear()
        asked = len(model.requests)
        run("vf-eval", "@", folder / "configs/resolved/eval.json", "--resume")
        assert len(model.requests) == asked + 15
    after = saved(folder)
    assert [row["ok"] for row in after] == [True] * 3
    assert [after[0]["id"], after[2]["id"]] == [before[0]["id"], before[2]["id"]]
    assert [list(scores(row)) for row in after] == [["normalized_score"]] * 3


def test_vf_validate_replays_the_best_known_actions_of_every_scenario(tmp_path):
    where = ["-o", tmp_path, "--run.name", "check", "--no-rich", "--runtime.type", "subprocess"]
    run("vf-validate", "kv-cache-eviction", "--taskset.num-examples", 6, *where)
    summary = json.loads((tmp_path / "check" / "summary.json").read_text())
    assert summary["outcomes"]["valid"] == summary["total"] == 6
    assert summary["checks"]["gold"]["valid"] == summary["checks"]["noop"]["valid"] == 6


def test_vf_gepa_improves_the_system_prompt_from_the_diagnoses(tmp_path):
    reflections = []

    def script(turn: int, body: dict) -> dict:
        if "tools" in body:
            return evict_first(turn, body)
        reflections.append(body["messages"][-1]["content"])
        return says("```\nEvict only what is dead.\n```")

    with serving(script) as model:
        where = ["-o", tmp_path, "--run.name", "gepa", "--env.taskset.view", "full", *endpoint(model)]
        budget = [
            "--num-train",
            1,
            "--num-val",
            1,
            "--reflection-minibatch-size",
            1,
            "--max-total-rollouts",
            4,
        ]
        run("vf-gepa", "@", PACKAGE / "configs" / "gepa.toml", *where, *budget)
    assert (tmp_path / "gepa" / "best_system_prompt.txt").read_text()
    assert reflections and "diagnosis" in reflections[0] and "best known" in reflections[0]


def test_the_installed_command_names_the_choices_for_an_argument_that_does_not_exist(tmp_path):
    line = [
        Path(sys.executable).parent / "vf-eval",
        "kv-cache-eviction",
        "--env.taskset.difficulty",
        "insane",
        "--dry-run",
    ]
    done = subprocess.run([*map(str, line), "-o", str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "easy" in done.stdout + done.stderr

"""A running server of each package: OpenEnv's own validation, the grader, and what HTTP answers."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from kv_cache_rl.adapters.openenv.checks import CHECKS, Failed, Server
from kv_cache_rl.adapters.openenv.grade import main
from kv_cache_rl.adapters.openenv.socket import Session, Told

OPENENV = Path(sys.executable).with_name("openenv")


def post(url: str, body: bytes) -> tuple[int, dict]:
    """Status and JSON of the answer."""
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize("check", CHECKS)
def test_the_grader_passes_each_check(server: Server, check: str):
    assert CHECKS[check](server)


def test_openenv_validates_the_running_server(server: Server):
    done = subprocess.run([OPENENV, "validate", "--url", server.url], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("  PASS  ") == 6 and "Verdict: PASS" in done.stdout


def test_the_grader_as_a_command_says_what_it_found(server: Server, capsys):
    with pytest.raises(SystemExit) as end:
        main([server.url, "--check", "contract", "--check", "tasks", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert end.value.code == 0 and told["environment"] == server.name
    assert [(row["check"], row["passed"]) for row in told["checks"]] == [("contract", True), ("tasks", True)]


def test_the_grader_fails_a_server_whose_rewards_leave_their_range(server: Server):
    narrow = replace(server, world=replace(server.world, reward=(2.0, 3.0)))
    with pytest.raises(Failed, match="outside 2"):
        CHECKS["contract"](narrow)


def test_the_grader_fails_a_server_that_gives_away_fewer_sessions(server: Server):
    with pytest.raises(Failed, match="64 sessions are given away, not 65"):
        CHECKS["capacity"](replace(server, sessions=65))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "is no address of a server; give one such as"),
        (["http://127.0.0.1:9"], "no OpenEnv server answers at"),
        (["http://127.0.0.1:9", "--sessions", "0"], "--sessions is 0; give a whole number"),
        (["http://127.0.0.1:9", "--check", "orakel"], "did you mean oracle?"),
    ],
)
def test_the_grader_without_a_server_says_what_to_do(arguments, words, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1 and words in said


def test_a_step_over_http_is_told_that_sessions_are_elsewhere(server: Server):
    status, told = post(f"{server.url}/step", json.dumps({"action": server.world.nothing}).encode())
    assert status == 422 and "send a reset over the WebSocket at /ws first" in told["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/reset", b'{"split": "nope"}', "unknown split 'nope'; use one of train"),
        ("/reset", b"{", "the body is not JSON"),
        ("/reset", b" " * 300_000, "the limit is"),
        (
            "/NAME/task",
            b'{"split": "test", "index": 10000000}',
            "index of test is 10000000; give a whole number",
        ),
        ("/NAME/num_tasks", b'{"split": "dev"}', "unknown split 'dev'"),
        ("/web/step", b'{"action": {}}', "is missing; send it"),
        ("/web/reset", b'{"view": "upside down"}', "unknown view"),
    ],
)
def test_what_is_wrong_over_http_is_answered_with_a_sentence(server: Server, path, body, words):
    status, told = post(server.url + path.replace("NAME", server.name), body)
    assert 400 <= status < 500 and words in told["error"]["message"]


def test_the_task_routes_list_the_committed_splits(server: Server):
    with urllib.request.urlopen(f"{server.url}/{server.name}/splits", timeout=60) as answer:
        splits = json.load(answer)
    assert [one["name"] for one in splits] == list(server.world.tasks.splits)
    assert {one["type"] for one in splits} == {"train", "validation", "test"}
    body = json.dumps({"split": "test", "start": 0, "stop": 3}).encode()
    _, told = post(f"{server.url}/{server.name}/task_range", body)
    assert [one["difficulty"] for one in told["tasks"]] == ["easy", "medium", "hard"]
    assert [one["id"] for one in told["tasks"]] == list(server.world.tasks.ids("test")[:3])


def test_after_a_refused_reset_the_episode_goes_on(server: Server):
    with Session(server.url) as session:
        session.reset(seed=4)
        session.step(server.world.nothing)
        before = session.state()
        with pytest.raises(Told, match="unknown split"):
            session.reset(split="nope")
        assert session.state() == before and not session.step(server.world.nothing)["done"]


def test_resets_without_arguments_go_from_task_to_task(server: Server):
    with Session(server.url) as session:
        found = []
        for _ in range(3):
            session.reset()
            found.append(session.state()["task"])
    assert found == list(server.world.tasks.ids(server.world.tasks.splits[0])[:3])

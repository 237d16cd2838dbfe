"""Run folders over HTTP: listed, opened, followed while they grow; nothing outside them is read, and what a
model wrote is never more than text.
"""

import json
import threading
import time
from dataclasses import replace

import pytest
from sse_events import events

from kv_cache_rl.adapters.http.runs import Runs
from kv_cache_rl.cli.saved import only_writer
from kv_cache_rl.reports.eviction.outcome import from_report, read_results, write_results
from kv_cache_rl.reports.eviction.run_config import CONFIG, RESULTS, SUMMARY
from kv_cache_rl.sim.eviction import DECIDERS, Episode, load_scenarios, play

RUN = "/api/eviction/runs/done"


def test_runs_are_listed_with_how_far_they_are(asked_with, runs):
    (found,) = asked_with(runs=runs)("GET", "/api/eviction/runs").json()["runs"]
    assert (found["run"], found["done"], found["failed"], found["expected"]) == ("done", 4, 0, 4)
    assert [target["model"] for target in found["config"]["targets"]] == ["lru", "keep"]
    assert "api_key_var" not in json.dumps(found)


def test_a_run_is_found_without_looking_at_all_others(asked_with, runs, monkeypatch):
    looked = []
    names = Runs.names
    monkeypatch.setattr(Runs, "names", lambda self: looked.append(1) or names(self))
    ask = asked_with(runs=runs)
    assert ask("GET", RUN).status_code == 200 and looked == []
    assert ask("GET", "/api/eviction/runs").json()["runs"] and looked == [1]


@pytest.mark.parametrize(
    ("asked", "trace", "expected"),
    [(-1, None, "all"), (10**6, None, "all"), (3, None, 6), (-1, "a.jsonl", None), (3, "a.jsonl", 6)],
)
def test_a_run_over_a_whole_set_says_how_many_rollouts_it_has(asked_with, runs, asked, trace, expected):
    config = json.loads((runs / "done" / CONFIG).read_text())
    (runs / "done" / CONFIG).write_text(json.dumps(config | {"num_examples": asked, "trace": trace}))
    wanted = 2 * len(load_scenarios("easy")) if expected == "all" else expected
    ask = asked_with(runs=runs)
    (found,) = ask("GET", "/api/eviction/runs").json()["runs"]
    assert found["expected"] == ask("GET", RUN).json()["expected"] == wanted


def test_a_folder_that_may_not_be_read_is_said(asked_with, runs, monkeypatch):
    def locked(self):
        raise PermissionError(13, "Permission denied")

    ask = asked_with(runs=runs)
    monkeypatch.setattr(type(runs), "iterdir", locked)
    error = ask.error("GET", "/api/eviction/runs", 503)
    assert error["message"].startswith("the folder of runs cannot be read (Permission denied); its owner")


def test_without_a_folder_there_are_no_runs(ask):
    assert ask("GET", "/api/eviction/runs").json() == {"runs": []}
    assert "--runs DIR" in ask.error("GET", RUN, 404)["message"]


def test_an_open_run_has_a_row_for_each_rollout(asked_with, runs):
    said = asked_with(runs=runs)("GET", RUN).json()
    stored = read_results(runs / "done" / RESULTS)
    assert [row["reward"] for row in said["rows"]] == [one.reward for one in stored]
    assert all("log" not in row for row in said["rows"])
    assert said["summary"] == {"rows": []}, "the config inside it is not told"
    assert said["read_to"] == (runs / "done" / RESULTS).stat().st_size


def test_a_run_without_a_summary_is_running_only_while_a_process_holds_its_folder(asked_with, runs):
    (runs / "done" / SUMMARY).unlink()
    ask = asked_with(runs=runs)
    assert ask("GET", RUN).json()["running"] is False
    with only_writer(runs / "done", "evaluation"):
        assert ask("GET", RUN).json()["running"] is True


def test_an_episode_of_a_run_is_played_again_from_its_log(asked_with, runs):
    ask = asked_with(runs=runs)
    stored = read_results(runs / "done" / RESULTS)[0]
    said = ask("GET", f"{RUN}/episode", params={"model": "lru", "scenario": stored.scenario_id}).json()
    assert said["report"]["total"] == stored.reward and said["log"] == stored.log
    assert said["row"]["model"] == "lru" and said["committed"]
    window = said["windows"][0]
    columns = window["entries"]
    assert len({len(column) for column in columns.values()}) == 1
    held = sum(p for p, place in zip(columns["pages"], columns["place"], strict=True) if place == "gpu")
    assert held + sum(window["prefixes"]["pages"]) == pytest.approx(window["memory"]["gpu_used"])
    ask.error("GET", f"{RUN}/episode", 404, params={"model": "lru", "scenario": "no"})
    ask.error("GET", f"{RUN}/episode", 404, params={"model": "gpt", "scenario": stored.scenario_id})


def dialogue(scenario_id, said):
    """A line as the evaluator writes it, with one reply."""
    nodes = [
        {"message": {"role": "system", "content": "S"}},
        {"message": {"role": "user", "content": [{"type": "text", "text": "{}"}]}},
        {
            "message": {
                "role": "assistant",
                "content": said,
                "tool_calls": [{"id": "c", "type": "function", "name": "evict", "arguments": "{}"}],
            }
        },
    ]
    usage = {"prompt_tokens": 5, "completion_tokens": 2}
    calls = [{"node": 2, "usage": usage, "time": {"start": 1.0, "end": 3.5}}]
    return {"task": {"data": {"id": scenario_id}}, "traces": [{"nodes": nodes, "calls": calls}]}


def test_the_dialogue_is_told_as_it_was_said(asked_with, runs):
    scenario = read_results(runs / "done" / RESULTS)[0].scenario_id
    script = "<img src=x onerror=alert(1)>"
    (runs / "done" / "lru").mkdir()
    (runs / "done" / "lru" / "traces.jsonl").write_text(json.dumps(dialogue(scenario, script)) + "\n")
    answer = asked_with(runs=runs)("GET", f"{RUN}/episode", params={"model": "lru", "scenario": scenario})
    assert answer.headers["content-type"] == "application/json"
    _, user, reply = answer.json()["dialogue"]
    assert user["content"] == "{}" and user["window"] == 1
    assert (reply["content"], reply["seconds"], reply["usage"]["prompt_tokens"]) == (script, 2.5, 5)
    assert reply["tool_calls"][0]["function"]["name"] == "evict"


def test_an_episode_of_a_window_of_a_trace_is_said_to_be_of_no_committed_scenario(asked_with, runs):
    scenario = replace(load_scenarios("easy", num_examples=1)[0], id="trace-window-0001")
    episode = play(Episode(scenario), DECIDERS["lru"]())
    write_results(runs / "done" / RESULTS, [from_report(scenario, "lru", episode.report(), episode.log)])
    (runs / "done" / "lru").mkdir()
    said = {"task": {"data": {"id": scenario.id, "scenario": scenario.to_json()}}, "traces": []}
    (runs / "done" / "lru" / "traces.jsonl").write_text(json.dumps(said) + "\n")
    asked = {"model": "lru", "scenario": scenario.id}
    found = asked_with(runs=runs)("GET", f"{RUN}/episode", params=asked).json()
    assert found["committed"] is False and found["report"]["total"] == episode.report().total


@pytest.mark.parametrize("line", ["{", '{"task": 3}', '{"task": {"data": {"id": "ID"}}, "traces": 4}', "[]"])
def test_a_damaged_dialogue_is_left_out(asked_with, runs, line):
    scenario = read_results(runs / "done" / RESULTS)[0].scenario_id
    (runs / "done" / "lru").mkdir()
    (runs / "done" / "lru" / "traces.jsonl").write_text(line.replace("ID", scenario) + "\n")
    answer = asked_with(runs=runs)("GET", f"{RUN}/episode", params={"model": "lru", "scenario": scenario})
    assert answer.status_code == 200 and answer.json()["dialogue"][0]["role"] == "system"


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e", "%2e", "..%2f..", "done%2f..%2f..", "/etc", "done%00", "a" * 4_000]
)
def test_a_name_that_leads_elsewhere_is_no_run(asked_with, runs, name):
    assert asked_with(runs=runs)("GET", f"/api/eviction/runs/{name}").status_code in (404, 307)


def test_links_that_lead_out_are_not_followed(asked_with, runs, tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / CONFIG).write_text((runs / "done" / CONFIG).read_text())
    (secret / RESULTS).write_text('{"secret": 1}\n')
    (runs / "linked").symlink_to(secret)
    results = runs / "done" / RESULTS
    results.unlink()
    results.symlink_to(secret / RESULTS)
    ask = asked_with(runs=runs)
    assert [one["run"] for one in ask("GET", "/api/eviction/runs").json()["runs"]] == ["done"]
    ask.error("GET", "/api/eviction/runs/linked", 404)
    said = ask("GET", RUN)
    assert said.json()["rows"] == [] and "secret" not in said.text.replace(str(tmp_path), "")


def test_a_loop_of_links_and_a_pipe_hold_nothing_up(asked_with, runs):
    import os

    (runs / "loop").mkdir()
    (runs / "loop" / CONFIG).symlink_to(runs / "loop" / CONFIG)
    os.mkfifo(runs / "done" / "traces.jsonl")
    (runs / "done" / RESULTS).unlink()
    os.mkfifo(runs / "done" / RESULTS)
    assert asked_with(runs=runs)("GET", RUN).json()["rows"] == []


def test_a_run_that_cannot_be_read_says_why_and_not_where(asked_with, runs):
    config = json.loads((runs / "done" / CONFIG).read_text())
    (runs / "done" / CONFIG).write_text(json.dumps(config | {"environment_version": "0"}))
    ask = asked_with(runs=runs)
    (found,) = ask("GET", "/api/eviction/runs").json()["runs"]
    assert "environment version 0" in found["problem"] and str(runs) not in found["problem"]
    assert str(runs) not in ask.error("GET", RUN, 422)["message"]


def test_a_damaged_line_is_a_row_with_its_problem(asked_with, runs):
    with (runs / "done" / RESULTS).open("a") as file:
        file.write('{"half": \n')
    rows = asked_with(runs=runs)("GET", RUN).json()["rows"]
    assert [row["problem"] is None for row in rows] == [True] * 4 + [False]


def test_a_changed_score_is_found(asked_with, runs):
    results = runs / "done" / RESULTS
    first, rest = results.read_text().split("\n", 1)
    row = json.loads(first)
    row["reward"] += 1
    results.write_text(json.dumps(row) + "\n" + rest)
    params = {"model": row["model"], "scenario": row["scenario_id"]}
    assert "reward is" in asked_with(runs=runs).error("GET", f"{RUN}/episode", 422, params=params)["message"]


def test_a_config_tells_no_password(asked_with, runs):
    config = json.loads((runs / "done" / CONFIG).read_text())
    config["targets"][0] |= {"base_url": "https://me:hidden@host/v1?key=hidden", "api_key_var": "HIDDEN_VAR"}
    (runs / "done" / CONFIG).write_text(json.dumps(config | {"trace": "/home/hidden/mine.jsonl"}))
    said = asked_with(runs=runs)("GET", RUN)
    assert "idden" not in said.text and "https://host/v1" in said.text and "mine.jsonl" in said.text


def test_a_run_is_followed_while_it_grows(asked_with, runs):
    results = runs / "done" / RESULTS
    lines = results.read_text().splitlines(keepends=True)
    (runs / "done" / SUMMARY).unlink()
    results.write_text(lines[0])

    def grow():
        for line in lines[1:]:
            time.sleep(0.3)
            with results.open("a") as file:
                file.write(line[:20])
                file.flush()
                time.sleep(0.3)
                file.write(line[20:])
        (runs / "done" / SUMMARY).write_text("{}")

    writer = threading.Thread(target=grow)
    writer.start()
    found = events(asked_with(runs=runs)("GET", f"{RUN}/events").text)
    writer.join()
    assert [kind for _, kind, _ in found] == ["row"] * 4 + ["done"]
    stored = read_results(results)
    assert [data["reward"] for _, kind, data in found if kind == "row"] == [one.reward for one in stored]
    assert found[-2][0] == results.stat().st_size


def test_a_run_is_followed_on_from_a_position(asked_with, runs):
    ask = asked_with(runs=runs)
    whole = events(ask("GET", f"{RUN}/events").text)
    rest = events(ask("GET", f"{RUN}/events", headers={"last-event-id": str(whole[1][0])}).text)
    assert rest == whole[2:]
    wrong = events(ask("GET", f"{RUN}/events", headers={"last-event-id": "7"}).text)
    assert wrong[0][1] == "error" and "no line of the run begins at 7" in wrong[0][2]["message"]


# Scenarios and episodes


def test_scenarios_are_listed_by_tier_and_split(ask):
    said = ask("GET", "/api/eviction/scenarios?difficulty=hard&split=test").json()["scenarios"]
    assert {one["id"] for one in said} == {one.id for one in load_scenarios("hard", "test")}
    assert ask.error("GET", "/api/eviction/scenarios?split=secret", 404)["field"] == "split"


def test_an_episode_by_the_oracle_reaches_the_best_known_return(ask):
    scenario = load_scenarios("hard", num_examples=1)[0]
    said = ask("POST", "/api/eviction/episodes", json={"scenario": scenario.id, "policy": "oracle"}).json()
    assert said["report"]["total"] == pytest.approx(scenario.best, abs=1e-6)
    assert said["windows"][-1]["total"] == said["report"]["total"]
    again = ask("POST", "/api/eviction/episodes", json={"scenario": scenario.id, "log": said["log"]}).json()
    assert again == said


def test_a_log_that_ends_early_is_played_on_with_keep(ask):
    scenario = load_scenarios("easy", num_examples=1)[0]
    said = ask(
        "POST", "/api/eviction/episodes", json={"scenario": scenario.id, "log": [], "dialogue": False}
    ).json()
    kept = ask("POST", "/api/eviction/episodes", json={"scenario": scenario.id, "policy": "keep"}).json()
    assert said["report"]["rewards"] == kept["report"]["rewards"] and said["dialogue"] is None


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"policy": "lru"}, 422, "scenario"),
        ({"scenario": "ID"}, 422, "policy"),
        ({"scenario": "ID", "policy": "lru", "log": []}, 422, "policy"),
        ({"scenario": "ID", "policy": "lruu"}, 404, "policy"),
        ({"scenario": "ID", "log": [["evict"]]}, 422, "log.0.0"),
        ({"scenario": "ID", "log": [[["fly", "a", "b"]]]}, 422, "log"),
        ({"scenario": "ID", "log": [[]] * 16}, 422, "log"),
        ({"scenario": "ID", "policy": "lru", "view": "x"}, 422, "view"),
    ],
    ids=str,
)
def test_an_episode_that_cannot_be_played_says_why(ask, body, status, field):
    id = load_scenarios("easy", num_examples=1)[0].id
    given = {key: id if value == "ID" else value for key, value in body.items()}
    assert ask.error("POST", "/api/eviction/episodes", status, json=given)["field"] == field

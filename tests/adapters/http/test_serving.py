"""The original's calls, batches and streams: they answer as documented and equal the command line's to the
last digit.
"""

import asyncio
import json

import pytest
from sse_events import events

from kv_cache_rl.adapters.http.limits import Limits
from kv_cache_rl.adapters.http.serving import COLUMNS
from kv_cache_rl.adapters.playing import decider, known_agents, play
from kv_cache_rl.agents import AGENTS, CANARIES
from kv_cache_rl.experiments.serving.log import ticks
from kv_cache_rl.sim.serving.actions import ACTIONS
from kv_cache_rl.sim.serving.dynamics import new_state
from kv_cache_rl.sim.serving.score import report
from kv_cache_rl.sim.serving.spec import TASKS, task

FEW = {"task": "hard", "ticks": 300, "seed": 4}


def test_agents_come_from_the_registry(ask):
    said = ask("GET", "/api/agents").json()
    assert [one["name"] for one in said["agents"]] == known_agents() == [*AGENTS, "oracle"]
    assert {one["name"] for one in said["agents"] if one["canary"]} == set(CANARIES)
    assert said["actions"] == list(ACTIONS) and said["tasks"] == list(TASKS)


@pytest.mark.parametrize("agent", ["lru", "random", "qlearning", "neural", "ppo"])
def test_a_simulation_equals_the_command_line_to_the_last_digit(ask, agent):
    said = ask("POST", "/api/simulate", json={"agent": agent, **FEW}).json()
    state = play(agent, task("hard", ticks=300), 4)
    assert said["report"] == json.loads(json.dumps(report(state).to_json()))
    assert said["traffic"] == state.load.facts()
    logs = said["session_logs"]
    assert (logs["final_score"], logs["ticks_run"]) == (report(state).score, report(state).ticks)
    assert (logs["total_arrived"], logs["total_completed"]) == (
        report(state).arrived,
        report(state).completed,
    )
    assert (said["status"], said["agent"], said["task"]) == ("success", agent, "hard")


def test_what_the_command_prints_is_in_the_answer(ask, capsys, monkeypatch):
    import sys

    from kv_cache_rl.cli import main

    words = "kv-cache-rl serving simulate --policy lru --task hard --ticks 300 --seed 4 --json"
    monkeypatch.setattr(sys, "argv", words.split())
    with pytest.raises(SystemExit):
        main()
    printed = json.loads(capsys.readouterr().out)
    said = ask("POST", "/api/simulate", json={"agent": "lru", **FEW}).json()
    flat = {
        "agent": said["agent"],
        **said["report"],
        "traffic": said["traffic"],
        "scenario": said["scenario"],
    }
    assert flat == printed


def test_tick_logs_are_columns_and_equal_the_log_of_the_command(ask):
    columns = ask("POST", "/api/simulate", json={"agent": "fifo", **FEW}).json()["tick_logs"]
    state = new_state(task("hard", ticks=300), 4)
    logged = [one.to_json() for one in ticks(state, decider("fifo", state))]
    assert list(columns) == list(COLUMNS)
    assert {len(column) for column in columns.values()} == {len(logged)}
    for name in set(logged[0]) - {"actions"}:
        assert columns[name] == [one[name] for one in logged], name
    assert [[ACTIONS[k] for k in row] for row in columns["actions"]] == [list(o["actions"]) for o in logged]
    assert columns["total_reward"][-1] == pytest.approx(report(state).total_reward)


def test_an_episode_without_a_log_comes_to_the_same(ask):
    with_log, without = (
        ask("POST", "/api/simulate", json={"agent": "lru", "tick_logs": log, **FEW}).json()
        for log in (True, False)
    )
    assert without["tick_logs"] is None
    assert with_log["report"] == without["report"]


def test_a_batch_is_its_agents_one_by_one(ask):
    said = ask("POST", "/api/simulate/batch", json={"agents": ["lru", "fifo", "lru"], **FEW}).json()
    assert [one["agent"] for one in said["results"]] == ["lru", "fifo"]
    for one in said["results"]:
        assert one == ask("POST", "/api/simulate", json={"agent": one["agent"], **FEW}).json()


def test_the_oracle_plays_in_a_process_of_its_own_and_equals_the_command_line(ask):
    short = {"task": "easy", "ticks": 60, "seed": 1}
    said = ask("POST", "/api/simulate", json={"agent": "oracle", **short}).json()
    assert said["report"]["score"] == report(play("oracle", task("easy", ticks=60), 1)).score


# Streams

STREAM = "/api/simulate/stream?agent=lru&agent=fifo&task=hard&ticks=300&seed=4&batch=100"


def test_a_stream_is_the_simulation_in_pieces(ask):
    answer = ask("GET", STREAM)
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = events(answer.text)
    assert [number for number, _, _ in found] == list(range(len(found)))
    assert (found[0][1], found[-1][1]) == ("start", "done")
    for agent in ("lru", "fifo"):
        alone = ask("POST", "/api/simulate", json={"agent": agent, **FEW}).json()
        pieces = [data["columns"] for _, kind, data in found if kind == "ticks" and data["agent"] == agent]
        assert len(pieces) > 2 and len(pieces[0]["tick"]) == 20
        joined = {name: [value for piece in pieces for value in piece[name]] for name in COLUMNS}
        assert joined == alone["tick_logs"]
        (end,) = [data for _, kind, data in found if kind == "end" and data["agent"] == agent]
        assert end == {key: alone[key] for key in end}


@pytest.mark.parametrize("last", [0, 3, 6])
def test_a_stream_goes_on_after_the_last_event(ask, last):
    whole, rest = ask("GET", STREAM), ask("GET", STREAM, headers={"last-event-id": str(last)})
    assert events(rest.text) == events(whole.text)[last + 1 :]


def test_a_stream_that_has_ended_only_says_so(ask):
    end = events(ask("GET", STREAM).text)[-1][0]
    assert events(ask("GET", STREAM, headers={"last-event-id": str(end)}).text) == [(None, "done", {})]


def test_a_paced_stream_takes_its_time(ask):
    import time

    started = time.monotonic()
    found = events(ask("GET", f"{STREAM}&pace_ms=100").text)
    rounds = sum(kind == "ticks" and data["agent"] == "lru" for _, kind, data in found)
    assert time.monotonic() - started > 0.1 * (rounds - 1)


def test_a_stream_takes_settings_as_json(ask):
    found = events(ask("GET", f"{STREAM}&settings=%7B%22gpu_blocks%22%3A%20700%7D").text)
    assert found[0][2]["settings"]["gpu_blocks"] == 700
    for wrong in ("%7B", "3", "%7B%22a%22%3A1%2C%22a%22%3A1%7D"):
        assert ask.error("GET", f"{STREAM}&settings={wrong}", 422)["field"] == "settings"
    assert ask.error("GET", STREAM, 422, headers={"last-event-id": "two"})["field"] == "Last-Event-ID"


# Settings


def test_settings_are_checked_and_change_nothing(ask):
    before = ask("GET", "/api/settings").json()
    said = ask("POST", "/api/settings", json={"task": "easy", "settings": {"gpu_blocks": 500}}).json()
    assert said["settings"]["gpu_blocks"] == 500 and said["status"] == "valid"
    assert ask("GET", "/api/settings").json() == before
    assert before["tasks"]["easy"]["gpu_blocks"] == TASKS["easy"].gpu_blocks
    assert not {"trace", "length_scale", "task"} & set(before["schema"])


def test_the_old_names_of_settings_are_known(ask):
    old = {"GPU_TOTAL_BLOCKS": 500, "CPU_TOTAL_BLOCKS": 900, "TOKENS_PER_BLOCK": 32, "max_ticks": 90}
    said = ask("POST", "/api/settings", json={"task": "easy", "settings": {**old, "TRAFFIC_SEED": 7}}).json()
    found = said["settings"]
    assert [found[k] for k in ("gpu_blocks", "cpu_blocks", "block_tokens", "ticks")] == [500, 900, 32, 90]
    assert said["seed"] == 7
    both = {"settings": {"GPU_TOTAL_BLOCKS": 500, "gpu_blocks": 500}}
    said = ask.error("POST", "/api/settings", 422, json=both)["message"]
    assert said == "gpu_blocks is given twice, as GPU_TOTAL_BLOCKS and gpu_blocks; give it once"


WRONG = [
    ({"agent": "lru", "ticks": 0}, "ticks", "a whole number from 1 to 50,000"),
    ({"agent": "lru", "ticks": 10**9}, "ticks", "a whole number from 1 to 50,000"),
    ({"agent": "lru", "ticks": True}, "ticks", "a whole number from 1 to 50,000"),
    ({"agent": "lru", "ticks": "5"}, "ticks", "a whole number from 1 to 50,000"),
    ({"agent": "lru", "seed": -1}, "seed", f"a whole number from 0 to {2**64 - 1:,}"),
    ({"agent": "lru", "seed": 2**64}, "seed", f"a whole number from 0 to {2**64 - 1:,}"),
    ({"agent": "lru", "settings": {"ticks": 60_000}}, "settings.ticks", "a whole number from 1 to 50,000"),
    ({"agent": "lru", "settings": {"ticks": 0}}, "settings.ticks", "a whole number from 1 to 50,000"),
    (
        {"agent": "lru", "settings": {"gpu_blocks": 3}},
        "settings.gpu_blocks",
        "a whole number from 16 to 16,777,216",
    ),
    ({"agent": "lru", "settings": {"vip_share": 2}}, "settings.vip_share", "a number from 0 to 1"),
    ({"agent": "lru", "settings": {"strict": 1}}, "settings.strict", "True or False"),
    ({"agent": "lru", "settings": {"trace": "/etc/passwd"}}, "settings.trace", None),
    ({"agent": "lru", "settings": {"model": "/etc/passwd"}}, "settings.model", None),
    ({"agent": "lru", "settings": {"model": "gemma-3-27b"}}, "settings.model", None),
    ({"agent": "lru", "settings": {"model": ["qwen3-8b"]}}, "settings.model", None),
    ({"agent": "lru", "settings": {"pattern": "zigzag"}}, "settings.pattern", None),
    ({"agent": "lru", "settings": {"TRAFFIC_SEED": "x"}}, "seed", f"a whole number from 0 to {2**64 - 1:,}"),
    ({"agent": "lru", "settings": []}, "settings", "a JSON object"),
    ({"agent": "lru", "tick_logs": 1}, "tick_logs", "true or false"),
    ({"agent": ""}, "agent", "at least 1 characters"),
    ({"agent": "x" * 201}, "agent", "at most 200 characters"),
    ({"agent": 7}, "agent", "a text"),
    ({}, "agent", None),
    ({"agent": "lru", "surprise": 1}, "surprise", None),
    ({"agent": "lru", "settings": {"rho": 100, "ticks": 50_000}}, None, None),
]


@pytest.mark.parametrize(("body", "field", "range"), WRONG, ids=lambda value: str(value)[:60])
def test_a_wrong_value_is_told_with_its_field_and_its_range(ask, body, field, range):
    error = ask.error("POST", "/api/simulate", 422, json=body)
    assert field is None or error["field"] == field
    assert range is None or error["range"].startswith(range)


def test_an_unknown_agent_or_task_is_404_with_the_nearest(ask):
    error = ask.error("POST", "/api/simulate", 404, json={"agent": "lruu"})
    assert error["field"] == "agent" and "did you mean lru?" in error["message"]
    error = ask.error("POST", "/api/simulate", 404, json={"agent": "lru", "task": "hrad"})
    assert error["field"] == "task" and "did you mean hard?" in error["message"]


@pytest.mark.parametrize("name", ["os:system", "/tmp/agent.py:Agent", "agent.py", "../lru"])
def test_no_request_names_code_of_the_servers_machine(ask, name):
    ask.error("POST", "/api/simulate", 404, json={"agent": name, **FEW})


def test_a_simulation_that_takes_too_long_is_cut_off(asked_with):
    ask = asked_with(limits=Limits(run_seconds=0.0))
    answer = ask("POST", "/api/simulate", json={"agent": "lru", **FEW})
    assert answer.status_code == 503 and "lower ticks" in answer.json()["error"]["message"]
    assert int(answer.headers["retry-after"]) >= 1


def test_a_log_that_is_too_long_is_refused(asked_with):
    ask = asked_with(limits=Limits(rows=100))
    assert (
        "this server logs 100"
        in ask.error("POST", "/api/simulate", 422, json={"agent": "lru", **FEW})["message"]
    )


def test_streams_are_as_many_as_allowed(asked_with):
    ask = asked_with(limits=Limits(streams=0))
    answer = ask("GET", STREAM)
    assert answer.status_code == 429 and answer.headers["retry-after"]


PACED = "/api/simulate/stream?agent=lru&task=easy&ticks=60&batch=20&pace_ms=500"


def test_streams_that_are_asked_for_at_once_are_no_more_than_allowed(asked_with):
    ask = asked_with(limits=Limits(streams=3))
    ask("GET", "/api/agents")

    async def together():
        answers = await asyncio.gather(*(ask.client.request("GET", PACED) for _ in range(12)))
        return [answer.status_code for answer in answers]

    assert sorted(ask.portal.call(together)) == [200] * 3 + [429] * 9
    assert ask.lab.streams == 0


def test_a_client_that_is_gone_before_the_first_event_leaves_no_stream(asked_with, runs):
    ask = asked_with(runs=runs)

    async def receive():
        await asyncio.sleep(60)

    async def gone(message):
        raise OSError("the connection is closed")

    async def call(path):
        place, _, asked = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "GET",
            "path": place,
            "raw_path": place.encode(),
            "query_string": asked.encode(),
            "root_path": "",
            "scheme": "http",
            "headers": [(b"host", b"127.0.0.1")],
        }
        try:
            await ask.app(scope, receive, gone)
        except Exception as wrong:
            return wrong

    for path in (PACED, "/api/eviction/runs/done/events"):
        assert ask.portal.call(call, path) is not None
        assert ask.lab.streams == 0


@pytest.mark.parametrize("last", ["0" * 20 + "9" * 30, "9" * 20, "-1", "1.5", "\u0663", str(2**53)])
@pytest.mark.parametrize("path", [PACED, "/api/eviction/runs/done/events"])
def test_a_last_event_that_is_no_number_of_one_is_refused(asked_with, runs, path, last):
    ask = asked_with(runs=runs)
    headers = {"last-event-id": last.encode("utf-8")}
    assert ask.error("GET", path, 422, headers=headers)["field"] == "Last-Event-ID"
    assert ask.lab.streams == 0


def test_the_column_of_rejections_counts_requests(ask):
    body = {"agent": "reject_all", "task": "easy", "seed": 3, "ticks": 200}
    found = ask("POST", "/api/simulate", json=body).json()
    assert found["report"]["rejected"] > 9
    assert found["tick_logs"]["rejected"][-1] == found["report"]["rejected"]

"""Sessions: isolated, limited, expiring; they equal the simulators they wrap."""

import threading
from dataclasses import replace

import pytest

from kv_cache_rl.adapters.http.limits import Limits
from kv_cache_rl.adapters.http.sessions import Sessions
from kv_cache_rl.adapters.playing import play
from kv_cache_rl.sim.eviction import DECIDERS, Episode, load_scenarios, replay, rollout
from kv_cache_rl.sim.serving.actions import ACTIONS
from kv_cache_rl.sim.serving.score import report
from kv_cache_rl.sim.serving.spec import task

SCENARIO = "eviction-eval-easy-0000-v2"
NOTHING = len(ACTIONS) - 1


def opened(ask, **body):
    answer = ask("POST", "/api/sessions", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/api/sessions/{answer.json()['session']}"
    return f"/api/sessions/{answer.json()['session']}"


def test_an_agent_in_a_session_comes_to_what_it_comes_to_alone(ask):
    path = opened(ask, task="easy", ticks=80, seed=3)
    while not (said := ask("POST", f"{path}/step", json={"agent": "lru", "ticks": 50}).json())["done"]:
        pass
    expected = report(play("lru", task("easy", ticks=80), 3))
    assert said["result"]["report"]["score"] == expected.score
    assert said["total_reward"] == pytest.approx(expected.total_reward)
    assert ask.error("POST", f"{path}/step", 409, json={"action": NOTHING})["field"] == "id"
    assert ask("DELETE", path).status_code == 204
    ask.error("GET", f"{path}/state", 404)


def test_two_sessions_know_nothing_of_each_other(ask):
    one, two = opened(ask, task="hard", ticks=50, seed=1), opened(ask, task="hard", ticks=50, seed=1)
    before = ask("GET", f"{two}/state").json()
    ask("POST", f"{one}/step", json={"agent": "lru", "ticks": 30})
    after = ask("GET", f"{two}/state").json()
    assert {**after, "expires_in_s": 0} == {**before, "expires_in_s": 0}


def test_a_reset_keeps_what_it_does_not_name(ask):
    path = opened(ask, task="hard", ticks=60, seed=1, settings={"gpu_blocks": 900})
    first = ask("GET", f"{path}/state").json()
    ask("POST", f"{path}/step", json={"action": NOTHING})
    again = ask("POST", f"{path}/reset", json={}).json()
    assert {**again, "expires_in_s": 0} == {**first, "expires_in_s": 0}
    other = ask("POST", f"{path}/reset", json={"seed": 2}).json()
    assert (other["task"], other["seed"]) == ("hard", 2)
    world = ask.lab.sessions.find(path.rsplit("/", 1)[1]).world
    assert (world.scenario.gpu_blocks, world.scenario.ticks) == (900, 60)
    ask("POST", f"{path}/reset", json={"settings": {"max_ticks": 40}})
    world = ask.lab.sessions.find(path.rsplit("/", 1)[1]).world
    assert (world.scenario.gpu_blocks, world.scenario.ticks, world.seed) == (10_000, 40, 2)


def test_a_refused_reset_leaves_the_session_as_it_was(ask):
    path = opened(ask, task="easy", ticks=60)
    before = ask("POST", f"{path}/step", json={"action": NOTHING}).json()
    ask.error("POST", f"{path}/reset", 422, json={"settings": {"gpu_blocks": 1}})
    after = ask("GET", f"{path}/state").json()
    assert after["tick"] == before["tick"]


def test_an_eviction_session_scores_as_the_replay_of_its_log(ask):
    path = opened(ask, world="eviction", scenario=SCENARIO)
    state = ask("GET", f"{path}/state").json()
    while not state["done"]:
        calls = ask("GET", f"{path}/advice?policy=lru").json()["calls"]
        state = ask("POST", f"{path}/step", json={"calls": calls}).json()
    (scenario,) = [one for one in load_scenarios("easy") if one.id == SCENARIO]
    assert state["report"]["total"] == replay(scenario, state["log"]).total
    assert state["report"]["total"] == rollout(scenario, DECIDERS["lru"]()).total


def test_a_brief_session_shows_the_ids_of_its_view_alone(ask):
    path = opened(ask, world="eviction", scenario=SCENARIO, view="brief")
    state = ask("GET", f"{path}/state").json()
    (scenario,) = [one for one in load_scenarios("easy") if one.id == SCENARIO]
    shown = {name for name in Episode(scenario, "brief").shown if name}
    assert set(state["entries"]["id"]) <= shown
    calls = ask("GET", f"{path}/advice?policy=lookahead").json()["calls"]
    assert {c["arguments"]["seq_id"] for c in calls if c["arguments"]} <= shown
    state = ask("POST", f"{path}/step", json={"calls": calls}).json()
    told = state["timeline"][0]
    assert {c["seq_id"] for c in told["calls"] if c["seq_id"]} <= shown


def test_calls_that_cannot_be_read_are_data(ask):
    path = opened(ask, world="eviction", scenario=SCENARIO)
    calls = [
        {"name": "evict", "arguments": {"seq_id": "<script>alert(1)</script>"}},
        {"name": "rm", "arguments": "{"},
        {"name": "evict", "arguments": "not json"},
    ]
    said = ask("POST", f"{path}/step", json={"calls": calls}).json()
    assert [text.split(":")[0] for text in said["results"]] == ["refused"] * 3


def test_the_oracles_window_is_told_with_whether_the_episode_has_followed_it(ask):
    path = opened(ask, world="eviction", scenario=SCENARIO)
    first = ask("GET", f"{path}/advice?policy=oracle").json()
    assert first["followed"]
    ask("POST", f"{path}/step", json={"calls": first["calls"]})
    assert ask("GET", f"{path}/advice?policy=oracle").json()["followed"]
    ask("POST", f"{path}/step", json={"calls": [{"name": "evict", "arguments": {"seq_id": "s999"}}]})
    assert not ask("GET", f"{path}/advice?policy=oracle").json()["followed"]


BAD = [
    ({"world": "eviction"}, 422, "scenario"),
    ({"world": "eviction", "scenario": "eviction-eval-easy-9999-v2"}, 404, "scenario"),
    ({"world": "eviction", "scenario": "../../etc/passwd"}, 404, "scenario"),
    ({"world": "eviction", "scenario": SCENARIO, "task": "hard"}, 422, "task"),
    ({"world": "eviction", "scenario": SCENARIO, "view": "wide"}, 422, "view"),
    ({"world": "serving", "scenario": SCENARIO}, 422, "scenario"),
    ({"world": "paged"}, 422, "world"),
]


@pytest.mark.parametrize(("body", "status", "field"), BAD, ids=str)
def test_a_session_that_cannot_be_opened_says_why(ask, body, status, field):
    assert ask.error("POST", "/api/sessions", status, json=body)["field"] == field


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"action": 18},
        {"action": 1.5},
        {"action": 1, "agent": "lru"},
        {"calls": []},
        {"agent": "lru", "ticks": 0},
    ],
    ids=str,
)
def test_a_step_that_is_none_of_the_world_is_refused(ask, body):
    path = opened(ask, task="easy", ticks=20)
    ask.error("POST", f"{path}/step", 422, json=body)
    ask.error("POST", f"{path}/step", 404, json={"agent": "oracle"})


def test_a_session_of_the_other_world_takes_no_actions(ask):
    path = opened(ask, world="eviction", scenario=SCENARIO)
    assert ask.error("POST", f"{path}/step", 422, json={"action": 1})["field"] == "action"
    assert ask.error("GET", f"{opened(ask, task='easy', ticks=20)}/advice", 422)["field"] == "id"


@pytest.mark.parametrize("id", ["x", "..", "%2e%2e", "old", "a" * 5_000, "%00", "☃"])
def test_a_foreign_session_is_404(ask, id):
    assert ask("GET", f"/api/sessions/{id}/state").status_code == 404
    assert ask("POST", f"/api/sessions/{id}/step", json={"action": 1}).status_code == 404


class World:
    kind, nbytes = "serving", 10


def test_a_session_that_is_left_alone_is_gone():
    now = [0.0]
    sessions = Sessions(Limits(idle_s=10), lambda: now[0])
    one = sessions.add(World())
    now[0] = 9.0
    assert sessions.find(one.id) is one
    now[0] = 18.9
    assert len(sessions) == 1
    now[0] = 19.1
    assert len(sessions) == 0 and sessions.nbytes == 0
    with pytest.raises(Exception, match="left alone for 10 s"):
        sessions.find(one.id)


def test_a_session_in_use_does_not_expire():
    now = [0.0]
    sessions = Sessions(Limits(idle_s=10), lambda: now[0])
    one = sessions.add(World())
    one.busy, now[0] = True, 100.0
    assert len(sessions) == 1


def test_sessions_are_as_many_as_allowed_and_say_when_to_come_back(asked_with):
    ask = asked_with(limits=Limits(sessions=2))
    paths = [opened(ask, task="easy", ticks=20) for _ in range(2)]
    answer = ask("POST", "/api/sessions", json={"task": "easy", "ticks": 20})
    assert answer.status_code == 429 and 1 <= int(answer.headers["retry-after"]) <= 60
    ask("DELETE", paths[0])
    opened(ask, task="easy", ticks=20)


def test_the_memory_of_sessions_is_bounded(asked_with):
    ask = asked_with(limits=Limits(session_bytes=300_000))
    path = opened(ask, task="easy", ticks=50)
    error = ask.error("POST", "/api/sessions", 429, json={"task": "hard", "ticks": 10_000})
    assert "ask for fewer ticks" in error["message"]
    ask.error("POST", f"{path}/reset", 429, json={"task": "hard", "ticks": 10_000})
    assert ask("GET", f"{path}/state").json()["task"] == "easy"


def test_parallel_steps_of_one_session_are_taken_one_by_one_or_refused(ask):
    path = opened(ask, task="easy", ticks=400)
    seen = []

    def step():
        seen.append(ask("POST", f"{path}/step", json={"agent": "lru", "ticks": 100}))

    threads = [threading.Thread(target=step) for _ in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    statuses = [answer.status_code for answer in seen]
    assert set(statuses) <= {200, 409} and statuses.count(200) >= 1
    assert all(answer.headers["retry-after"] for answer in seen if answer.status_code == 409)
    ticked = ask("GET", f"{path}/state").json()["tick"]["tick"]
    assert ticked == 100 * statuses.count(200)


# The old calls


def test_the_old_calls_answer_and_say_what_to_use(asked_with):
    ask = asked_with()
    assert ask.error("POST", "/step", 404, json={"action": 1})
    reset = ask("POST", "/reset", json={"task": "easy", "ticks": 30, "seed": 5})
    step = ask("POST", "/step", json={"action": NOTHING})
    state = ask("GET", "/state")
    for answer in (reset, step, state):
        assert answer.status_code == 200
        assert answer.headers["deprecation"].startswith("@")
        assert 'rel="successor-version"' in answer.headers["link"]
    assert state.json()["tick"] == step.json()["tick"] and step.json()["tick"]["tick"] == 1
    assert ask("POST", "/reset").json()["task"] == "medium"
    assert len(ask.lab.sessions) == 1
    assert ask("GET", "/api/sessions/old/state").json()["task"] == "medium", "its id is told and no secret"


def test_an_old_reset_that_is_refused_leaves_the_session_as_it_was(asked_with):
    ask = asked_with()
    before = ask("POST", "/reset", json={"task": "easy", "ticks": 30, "seed": 5}).json()
    held = ask.lab.sessions.nbytes
    ask.lab.sessions.limits = replace(ask.lab.limits, session_bytes=held)
    assert ask("POST", "/reset", json={"task": "hard", "ticks": 900}).headers["retry-after"]
    after = ask("GET", "/state").json()
    assert after == before | {"expires_in_s": after["expires_in_s"]}
    assert ask.lab.sessions.nbytes == held


def test_a_wrong_argument_is_named_as_the_request_names_it(ask):
    body = {"calls": [{"name": "evict", "arguments": 7}]}
    error = ask.error("POST", "/api/sessions/any/step", 422, json=body)
    assert error["field"] == "calls.0.arguments" and "dict[" not in error["message"]

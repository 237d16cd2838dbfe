"""``--policy llm``: through the embedded endpoint, and against servers that misbehave."""

import json
import socket
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kv_cache_rl.adapters import patience
from kv_cache_rl.cli import app

pytest.importorskip("aiohttp", reason="the scripted model needs aiohttp, which verifiers installs")
sys.path.insert(0, str(Path(__file__).parents[2] / "environments"))

from scripted_model import ERROR_500, HANG, NOT_JSON, calls, refuses, says, sends, serving

SHORT = (
    "--task",
    "medium",
    "--ticks",
    "20",
    "--rho",
    "1.5",
    "--set",
    "gpu_blocks=900",
    "--set",
    "actions_per_tick=2",
)
PRICES = ("--price-in", "1", "--price-out", "4")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.002)


@pytest.fixture
def run(tmp_path):
    """run(command, *options) -> (exit code, the JSON on stdout or None, stderr)."""

    def run(command, *options):
        where = ("--out", str(tmp_path / "out")) if command == "evaluate" else ()
        done = CliRunner().invoke(app, ["serving", command, *SHORT, *where, "--json", *options])
        return done.exit_code, json.loads(done.stdout) if done.stdout else None, done.stderr

    return run


@pytest.fixture
def simulate(run):
    """simulate(script, *options) -> exit code, report, stderr, and the requests that the model got."""

    def simulate(script, *options):
        with serving(script) as model:
            hosted = ("--policy", "llm", "--model", "m", "--base-url", model.base_url)
            return *run("simulate", *hosted, *options), model.requests

    return simulate


def act(**arguments):
    return calls(("act", arguments))


def test_without_an_address_a_heuristic_plays_through_the_chat_path_as_it_plays_by_itself(run):
    code, found, _ = run("evaluate", "--policy", "lru,llm", "--seeds", "2", *PRICES)
    rows = {(row["agent"], row["seed"]): row for row in found["episodes"]}
    assert code == 0 and len(rows) == 4
    for seed in found["seeds"]:
        chat = rows["llm", seed]["chat"]
        assert rows["llm", seed]["report"]["score"] == rows["lru", seed]["report"]["score"]
        assert chat["used"] == chat["calls"] > 10 and chat["parse_failures"] == chat["lost"] == 0
        assert chat["cost"] == pytest.approx((chat["read"] + 4 * chat["written"]) / 1e6) and chat["cost"] > 0
    assert [row["agent"] for row in found["episodes"]] == ["lru", "lru", "llm", "llm"]
    assert "embedded" in found["chat"][0]
    again = run("evaluate", "--policy", "lru,llm", "--seeds", "2", *PRICES)[1]
    assert again["episodes"] == found["episodes"], "kept episodes are not asked for again"


def test_a_kept_episode_costs_what_the_prices_of_this_call_say(run):
    def costs(*prices):
        code, found, _ = run("evaluate", "--policy", "llm", "--seeds", "1", *prices)
        (chat,) = [row["chat"] for row in found["episodes"]]
        assert code == 0 and ("in the currency" in found["chat"][0]) == bool(prices)
        return chat["read"], chat["written"], chat["cost"]

    read, written, none = costs()
    assert none is None and read > 0
    assert costs(*PRICES) == (read, written, pytest.approx((read + 4 * written) / 1e6))
    dear = ("--price-in", "1000", "--price-out", "2000")
    assert costs(*dear) == (read, written, pytest.approx((1000 * read + 2000 * written) / 1e6))
    assert costs() == (read, written, None)


def test_calls_ticks_and_money_stand_in_the_report_and_the_model_gets_state_and_tool(simulate):
    code, found, stderr, requests = simulate(lambda turn, body: act(action=17, repeat=3), *PRICES)
    chat = found["chat"]
    assert code == 0 and chat["calls"] == chat["used"] == len(requests) > 1, stderr
    assert found["ticks"] > 2 * len(requests), "an action is held"
    assert chat["read"] == 100 * len(requests) and chat["written"] == 10 * len(requests)
    assert chat["cost"] == pytest.approx(140 * len(requests) / 1e6)
    assert requests[0]["tools"][0]["function"]["name"] == "act"
    assert "possible: " in requests[0]["messages"][-1]["content"]


MISBEHAVING = {
    "text alone": (says("I shall wait."), "no_call"),
    "out of range": (act(action=99), "unknown_action"),
    "another tool": (calls(("evict", {"seq_id": "s1"})), "unknown_tool"),
    "half an object": (calls(("act", '{"action": ')), "unreadable"),
    "repeat": (act(action=17, repeat=10**9), "repeat_out_of_range"),
}


@pytest.mark.parametrize("name", MISBEHAVING)
def test_a_model_that_never_decides_is_told_loudly_and_the_episode_ends(simulate, run, name):
    reply, kind = MISBEHAVING[name]
    code, found, _, requests = simulate(lambda turn, body: reply)
    chat = found["chat"]
    assert code == 0 and chat[kind] == chat["parse_failures"] == chat["calls"] == len(requests) > 2
    assert found["score"] == run("simulate", "--policy", "do_nothing")[1]["score"]
    with serving(lambda turn, body: reply) as model:
        options = ("--policy", "llm", "--model", "m", "--base-url", model.base_url)
        told = CliRunner().invoke(app, ["serving", "simulate", *SHORT, *options]).stdout
    assert "m NEVER CALLED THE TOOL" in told and "that of doing nothing" in told


def test_actions_without_a_target_are_counted_apart(simulate):
    _, found, _, requests = simulate(lambda turn, body: act(action=16))
    assert found["chat"]["no_target"] == found["chat"]["used"] == len(requests) > 2


FAILING = {
    "hangs": HANG,
    "html": NOT_JSON,
    "500": ERROR_500,
    "503": refuses(503, "loading"),
    "429 for an hour": refuses(429, "rate limit reached", retry_after="3600"),
    "null": sends(b"null"),
    "no choices": sends(b'{"choices": []}'),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_server_that_fails_for_a_whole_episode_is_given_up_in_bounded_time(simulate, name):
    started, limits = time.monotonic(), ("--timeout", "1", "--max-retries", "0", "--patience", "0.01")
    code, found, _, requests = simulate(lambda turn, body: FAILING[name], *limits)
    chat = found["chat"]
    assert code == 0 and chat["gone"] and chat["lost"] == chat["calls"] == 3 and chat["first_loss"]
    assert chat["used"] == 0 and found["ticks"] > 5 and time.monotonic() - started < 30
    assert 3 <= len(requests) < 20


def test_what_was_lost_once_is_asked_again_and_the_episode_counts_on(simulate):
    seen = []

    def flaky(turn, body):
        seen.append(1)
        return refuses(503, "busy") if len(seen) % 2 else act(action=17, repeat=5)

    code, found, _, _ = simulate(flaky)
    assert code == 0 and found["chat"]["lost"] == 0 and found["chat"]["used"] == found["chat"]["calls"] > 0


def test_a_refusal_for_good_fails_the_command_and_says_why(simulate):
    code, found, stderr, requests = simulate(lambda turn, body: refuses(401, "wrong key"))
    assert code and found is None and "wrong key" in stderr and len(requests) == 1


def test_a_closed_port_is_lost_calls_and_said(run):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        limits = ("--max-retries", "0")
        code, found, _ = run(
            "evaluate", "--policy", "llm", "--model", "m", "--base-url", url, *limits, "--seeds", "1"
        )
    assert code == 0 and "NEVER ANSWERED" in found["chat"][1]
    assert found["episodes"][0]["provisional"], "it is played anew the next time"


def test_one_slow_episode_does_not_block_the_others(run):
    at = []

    def hangs_once(turn, body):
        at.append(time.monotonic())
        return HANG if len(at) == 1 else act(action=17, repeat=50)

    with serving(hangs_once) as model:
        hosted = ("--policy", "llm", "--model", "m", "--base-url", model.base_url, "--seeds", "4")
        code, found, _ = run("evaluate", *hosted, "--timeout", "3", "--max-retries", "0")
    assert code == 0 and sorted(row["chat"]["lost"] for row in found["episodes"]) == [0, 0, 0, 1]
    assert sum(moment < at[0] + 3 for moment in at) >= 4, "the others went on meanwhile"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--policy", "lru", "--model", "m"), "add --policy llm"),
        (("--policy", "lru", "--timeout", "5"), "add --policy llm"),
        (("--policy", "llm", "--base-url", "http://127.0.0.1:1/v1"), "--base-url is given without --model"),
        (("--policy", "llm", "--api-key-var", "MY_KEY"), "--api-key-var is given without --model"),
        (("--policy", "llm", "--temperature", "0.5"), "--temperature is given without --model"),
        (("--policy", "llm", "--model", "m", "--base-url", "127.0.0.1"), "is not an address"),
        (("--policy", "llm", "--model", " "), "--model is empty"),
        (("--policy", "llm", "--price-in", "1"), "without --price-out"),
        (
            (
                "--policy",
                "llm",
                "--model",
                "m",
                "--base-url",
                "http://there.example/v1",
                "--api-key-var",
                "NO",
            ),
            "NO is not set",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused_with_what_to_give(run, options, words):
    code, found, stderr = run("simulate", *options)
    assert code == 2 and found is None and words in " ".join(stderr.split())


def test_how_many_episodes_a_model_plays_at_once_is_not_said_to_policies(run):
    code, found, stderr = run("evaluate", "--policy", "lru", "--max-concurrent", "2")
    assert code == 2 and found is None and "--max-concurrent and its like are for a chat model" in stderr

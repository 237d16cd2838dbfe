"""One real server on loopback: many clients, killed clients, slow readers, a clean end; and the committed
description.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from sse_events import events
from typer.testing import CliRunner

from kv_cache_rl.adapters.http import load
from kv_cache_rl.adapters.http.openapi import PLACE, described, written
from kv_cache_rl.adapters.http.server import check_hosts, check_runs
from kv_cache_rl.adapters.listening import EndpointError
from kv_cache_rl.cli import app

ROOT = Path(__file__).parents[3]
SECONDS = 5.0
CLIENTS = 200


@pytest.fixture(scope="module")
def server():
    with load.running() as running:
        yield running


def test_the_committed_description_is_that_of_the_server():
    assert (ROOT / PLACE).read_text(encoding="utf-8") == written(), (
        "python -m kv_cache_rl.adapters.http.openapi"
    )


def test_every_call_is_described_with_its_errors():
    for path, calls in described()["paths"].items():
        for method, call in calls.items():
            assert call["description"], path
            assert {"400", "403"} <= set(call["responses"]), (method, path)
            assert "HTTPValidationError" not in json.dumps(call), (method, path)


def test_the_servers_description_is_the_committed_one(server):
    url, _ = server
    assert httpx.get(f"{url}/openapi.json").json() == json.loads(json.dumps(described()))


def test_two_hundred_clients_see_no_error_and_leave_nothing(server):
    found = asyncio.run(load.loaded(*server, CLIENTS, SECONDS))
    assert found.errors == [] and found.by_status[201] >= CLIENTS
    assert found.rss_mb_after - found.rss_mb_before < 200


def waited(condition, seconds=10.0):
    """Whether something comes true in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_a_killed_clients_stream_ends_on_the_server(server):
    url, _ = server

    def streams():
        return httpx.get(f"{url}/health").json()["streams"]

    with httpx.stream("GET", f"{url}/api/simulate/stream?agent=lru&task=hard&pace_ms=200&batch=20") as answer:
        pieces = answer.iter_bytes()
        next(pieces)
        assert streams() == 1
    assert waited(lambda: streams() == 0)


def test_a_slow_reader_holds_nothing_up(server):
    url, _ = server
    host, port = url.removeprefix("http://").split(":")
    slow = socket.create_connection((host, int(port)))
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
    body = json.dumps({"agent": "lru", "task": "hard", "ticks": 5_000}).encode()
    head = f"POST /api/simulate HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
    slow.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    started = time.monotonic()
    for _ in range(5):
        assert httpx.get(f"{url}/health").status_code == 200
    assert time.monotonic() - started < 5
    slow.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: 127.0.0.1\r\n\r\n",
        b"POST /api/simulate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET " + b"/" * 100_000,
    ],
    ids=["no host", "two hosts", "two lengths", "TLS", "long line"],
)
def test_what_is_no_http_is_refused_and_the_server_lives(server, sent):
    url, _ = server
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(sent)
        raw.settimeout(10)
        with suppress(ConnectionResetError):
            assert not raw.recv(100).startswith(b"HTTP/1.1 2")
    assert httpx.get(f"{url}/health").status_code == 200


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly_while_a_stream_is_read(end):
    with load.running() as (url, process):
        path = f"{url}/api/simulate/stream?agent=lru&task=hard&pace_ms=500&batch=20"
        with httpx.stream("GET", path, timeout=30) as answer:
            text = answer.iter_text()
            first = next(text)
            os.kill(process, end)
            rest = "".join(text)
        assert events(first + rest)[-1][1] == "error"
        started = time.monotonic()
        assert waited(lambda: not alive(process)), "it has ended"
        assert time.monotonic() - started < 8


def alive(process):
    return os.waitpid(process, os.WNOHANG) == (0, 0)


def command(*options):
    """What `kv-cache-rl serve` with these options says, and how it ends."""
    return subprocess.run(
        [*load.main_command(), "serve", *options], capture_output=True, text=True, timeout=120
    )


def test_a_taken_port_is_told_with_the_remedy():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = command("--port", port)
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr and "give another --port" in done.stderr


def test_a_server_for_others_is_told_its_names():
    done = command("--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 2 and "--allow-host NAME" in done.stderr and done.stdout == ""


@pytest.mark.parametrize(
    "name",
    [
        "lab.example.org:7996",
        "https://lab.example.org",
        "http://lab.example.org:80/page",
        "[::1]",
        "a b",
        "*",
    ],
)
def test_a_name_that_no_request_can_have_is_refused(name):
    with pytest.raises(EndpointError, match="no request would match it; give ") as refused:
        check_hosts("0.0.0.0", (name,))
    if "lab" in name:
        assert "--allow-host lab.example.org," in str(refused.value)


def test_names_and_addresses_may_be_allowed(tmp_path):
    check_hosts("0.0.0.0", ("lab.example.org", "LAB", "10.0.0.7", "fe80::1", "my_box"))
    check_runs(tmp_path / "not-there-yet")


def test_a_file_is_no_folder_of_runs(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EndpointError, match="is no folder; give the folder"):
        check_runs(tmp_path / "config.json")


def test_a_folder_of_runs_that_may_not_be_read_is_refused_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(EndpointError, match=f"--runs {tmp_path} may not be read; chmod u.rx {tmp_path}"):
        check_runs(tmp_path)


@pytest.mark.parametrize("variable", ["SPACE_HOST", "KV_CACHE_RL_ALLOW_HOST"])
def test_a_container_says_in_a_variable_which_names_it_answers_to(variable):
    given = {"SPACE_HOST": None, "KV_CACHE_RL_ALLOW_HOST": None, variable: "localhost,https://lab.hf.space"}
    done = CliRunner().invoke(app, ["serve", "--host", "0.0.0.0"], env=given)
    assert done.exit_code == 2 and "https://lab.hf.space is no name of a host" in done.stderr


def test_the_load_test_prints_what_it_saw(capsys, monkeypatch):
    seen = load.Found(2, 0.1, answers=3)
    seen.note("GET /", 500, 0.2, (200,))
    monkeypatch.setattr(load, "run", lambda sessions, seconds: seen)
    monkeypatch.setattr(sys, "argv", ["load"])
    with pytest.raises(SystemExit) as ended:
        load.main()
    said = json.loads(capsys.readouterr().out)
    assert ended.value.code == 1 and said["errors"] == ["GET /: 500"] and said["by_status"] == {"500": 1}


def test_a_body_that_is_not_said_to_be_json_is_told_the_header(ask):
    body = b'{"agent": "lru", "task": "easy", "ticks": 20}'
    said = ask.error("POST", "/api/simulate", 422, content=body)["message"]
    assert "send the header content-type: application/json" in said
    assert ask("POST", "/api/simulate", content=body, headers={"content-type": "application/json"}).is_success


@pytest.mark.parametrize(
    ("path", "wrong", "takes"),
    [
        ("/api/simulate/stream?agent=lru&task=easy&tick=20", "tick", "give one of agent, task, seed, ticks"),
        ("/api/eviction/scenarios?difficulty=hard&splt=test", "splt", "give one of difficulty, split"),
        ("/api/trainings?all=1", "all", "give none"),
    ],
)
def test_a_query_parameter_that_is_not_known_is_refused(ask, path, wrong, takes):
    error = ask.error("GET", path, 422)
    assert error["field"] == wrong and f"no query parameter '{wrong}'; {takes}" in error["message"]


@pytest.mark.parametrize(
    ("path", "twice"),
    [
        ("/api/simulate/stream?agent=lru&task=easy&task=hard&ticks=20", "task"),
        ("/api/simulate/stream?agent=lru&agent=fifo&seed=1&seed=1&ticks=20", "seed"),
        ("/api/eviction/scenarios?split=eval&split=test", "split"),
    ],
)
def test_a_query_parameter_that_counts_once_is_refused_where_it_stands_twice(ask, path, twice):
    error = ask.error("GET", path, 422)
    assert error["field"] == twice and f"{twice} is given 2 times; give it once" in error["message"]

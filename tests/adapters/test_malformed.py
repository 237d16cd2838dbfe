"""Whatever a client sends, the server answers with a sentence and goes on."""

import json
import socket
from urllib.parse import urlsplit

import httpx
import pytest

from kv_cache_rl.adapters import requests
from kv_cache_rl.adapters.endpoint import serving
from kv_cache_rl.adapters.requests import host_name
from kv_cache_rl.sim.eviction import TOOLS, Call, Episode

DECIDERS_THAT_READ_ALL = ("weigh_value", "lru", "compress_int8")
VALUES = (None, [], {}, "x", -1, 0, 1e308, 10**30, True, [[None]], {"a": None})


@pytest.fixture
def observation(scenarios):
    """One in the midst of an episode, with something in every field."""
    episode = Episode(scenarios[2])
    for _ in range(4):
        episode.step([Call("keep")])
    return episode.observation()


def places(value: object, path: tuple = ()) -> list[tuple]:
    """The paths to every value of an observation, of lists to the first one only."""
    inner = (
        value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    )
    return [path, *(found for key, one in inner for found in places(one, (*path, key)))]


def with_value(observation: dict, path: tuple, value: object) -> dict:
    changed = json.loads(json.dumps(observation))
    *before, last = path
    inner = changed
    for key in before:
        inner = inner[key]
    inner[last] = value
    return changed


def asked(model: str, text: str) -> dict:
    return {"model": model, "messages": [{"role": "user", "content": text}], "tools": TOOLS}


def test_an_observation_with_one_wrong_value_is_answered_or_refused_and_never_a_server_error(
    base_url, observation
):
    wrong = 0
    with httpx.Client(trust_env=False) as client:
        for path in places(observation)[1:]:
            for value in VALUES:
                text = json.dumps(with_value(observation, path, value))
                for model in DECIDERS_THAT_READ_ALL:
                    reply = client.post(f"{base_url}/chat/completions", json=asked(model, text))
                    assert reply.status_code in (200, 400), (path, value, model, reply.text)
                    if reply.status_code == 400:
                        wrong += 1
                        assert "send it" in reply.json()["error"]["message"]
    assert wrong > 100


def test_a_null_overview_is_a_bad_request(base_url, observation):
    text = json.dumps({**observation, "cache_overview": None})
    reply = httpx.post(f"{base_url}/chat/completions", json=asked("weigh_value", text))
    assert reply.status_code in (200, 400)


def test_what_the_dialogue_lacks_is_said_before_what_the_tools_lack(base_url):
    body = {"model": "lru", "messages": [{"role": "user", "content": "hello"}]}
    reply = httpx.post(f"{base_url}/chat/completions", json=body)
    assert "holds an observation" in reply.json()["error"]["message"]


def connected(base_url: str) -> socket.socket:
    parts = urlsplit(base_url)
    return socket.create_connection((parts.hostname, parts.port), timeout=20)


def post(body: bytes, length: object, host: str = "127.0.0.1") -> bytes:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n"
    return head.encode() + body


def test_a_client_that_hangs_up_within_its_request_leaves_no_trace_in_the_log(base_url, capfd):
    for _ in range(5):
        with connected(base_url) as line:
            line.sendall(post(b'{"model": ', 1000))
    assert httpx.get(f"{base_url}/models").status_code == 200
    assert capfd.readouterr().err == ""


def test_a_request_that_stays_half_sent_is_told_so(monkeypatch):
    monkeypatch.setattr(requests, "BODY_SECONDS", 0.2)
    with serving("keep") as url, connected(url) as line:
        line.sendall(post(b'{"model": ', 1000))
        answer = ""
        while not answer.endswith("}"):
            answer += line.recv(4096).decode()
    assert answer.startswith("HTTP/1.1 408")
    assert "10 bytes of the body came in 0.2 s, and it is not whole; send it again" in answer


@pytest.mark.parametrize("length", ["x", "-5", "1e9"])
def test_a_length_that_is_no_number_is_a_bad_request(base_url, length):
    with connected(base_url) as line:
        line.sendall(post(b"{}", length))
        assert line.recv(4096).startswith(b"HTTP/1.1 4")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example"])
def test_a_page_that_points_its_own_name_here_is_refused(base_url, host):
    reply = httpx.get(f"{base_url}/models", headers={"host": host})
    assert reply.status_code == 403
    assert reply.json()["error"]["message"] == (
        f"this server answers on this machine only, not as {host_name(host)!r}; ask for 127.0.0.1"
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1234", "[::1]:80", "LOCALHOST"])
def test_loopback_has_several_names(base_url, host):
    assert httpx.get(f"{base_url}/models", headers={"host": host}).status_code == 200

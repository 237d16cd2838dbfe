"""The door: foreign hosts and origins, bodies that are too large, too deep or too slow, readers that do not
read; and one shape of error everywhere.
"""

import asyncio
import json

import httpx
import pytest

from kv_cache_rl.adapters.http.app import create_app
from kv_cache_rl.adapters.http.guard import Guard
from kv_cache_rl.adapters.http.limits import Limits

POLICY = "default-src 'self'"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:78", "127.0.0.1.evil.example", "", "localhost."]
)
def test_a_foreign_host_is_refused(ask, host):
    error = ask.error("GET", "/health", 403, headers={"host": host})
    assert error["field"] == "Host" and "--allow-host NAME" in error["message"]


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860"])
def test_this_machines_names_are_known(ask, host):
    assert ask("GET", "/health", headers={"host": host}).status_code == 200


def test_a_server_that_only_this_machine_reaches_stands_in_no_foreign_frame(ask, asked_with):
    def policy(one):
        return one("GET", "/health").headers["content-security-policy"]

    assert policy(ask).endswith("; frame-ancestors 'none'")
    assert policy(asked_with(hosts=("localhost",))).endswith("; frame-ancestors 'none'")
    assert "frame-ancestors" not in policy(asked_with(hosts=("me-lab.hf.space",))), "a Space is a frame"


def test_a_name_that_was_allowed_is_known(asked_with):
    ask = asked_with(hosts=("Lab.Example.org",))
    assert ask("GET", "/health", headers={"host": "lab.example.org"}).status_code == 200
    ask.error("GET", "/health", 403, headers={"host": "other.example.org"})


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:8080", "http://localhost:7860", "file://"]
)
def test_a_page_of_another_origin_is_refused(ask, origin):
    error = ask.error("POST", "/api/simulate", 403, json={"agent": "lru"}, headers={"origin": origin})
    assert error["field"] == "Origin"


def test_the_servers_own_page_is_not(ask):
    assert ask("GET", "/health", headers={"origin": "http://127.0.0.1:7860"}).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site", "Cross-Site"])
def test_an_image_of_another_page_makes_the_server_do_nothing(ask, site):
    headers = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
    path = "/api/simulate/stream?agent=oracle"
    assert ask.error("GET", path, 403, headers=headers)["field"] == "Sec-Fetch-Site"
    assert ask("GET", "/", headers=headers).status_code == 200, "a link to the page may be followed"


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_what_the_own_page_and_a_reader_ask_is_answered(ask, site):
    assert ask("GET", "/api/agents", headers={"sec-fetch-site": site}).status_code == 200


def test_a_form_of_another_page_is_no_json(ask):
    body = json.dumps({"agent": "lru", "ticks": 20})
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        ask.error("POST", "/api/simulate", 422, content=body, headers={"content-type": kind})


@pytest.mark.parametrize("path", ["/", "/health", "/nothing", "/api/agents", "/web/index.html"])
def test_every_answer_has_the_security_headers(ask, path):
    headers = ask("GET", path).headers
    assert headers["content-security-policy"].startswith(POLICY)
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers


def test_the_door_writes_them_on_its_own_answers_too(ask):
    assert "content-security-policy" in ask("GET", "/health", headers={"host": "evil.example"}).headers


@pytest.mark.parametrize(
    "path", ["/web/../app.py", "/web/%2e%2e/extras.py", "/web/..%2fextras.py", "/web//etc/passwd", "/web/%00"]
)
def test_nothing_outside_the_page_is_served(ask, path):
    assert ask("GET", path).status_code == 404


def test_no_page_of_the_server_names_another_host(ask):
    assert "http" not in ask("GET", "/").text.replace("http-equiv", "")
    assert ask("GET", "/docs").status_code == ask("GET", "/redoc").status_code == 404


# Bodies

DEEP = "[" * 50_000 + "]" * 50_000
MALFORMED = {
    "deep": '{"agent": ' + DEEP + "}",
    "nan": '{"agent": "lru", "ticks": NaN}',
    "twice": '{"agent": "lru", "agent": "fifo"}',
    "huge number": '{"agent": "lru", "ticks": 1' + "0" * 5_000 + "}",
    "half a character": '{"agent": "\\ud800"}',
    "cut off": '{"agent": "lru"',
    "not UTF-8": b'{"agent": "\xff"}',
    "infinity": '{"agent": "lru", "settings": {"rho": 1e999}}',
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_body_is_400(ask, kind):
    sent = {"content": MALFORMED[kind], "headers": {"content-type": "application/json"}}
    error = ask.error("POST", "/api/simulate", 400, **sent)
    assert "the body cannot be read" in error["message"] and len(error["message"]) <= 1_000


@pytest.mark.parametrize("body", ["null", "3", '"lru"', "[]", "[[[]]]", "true", ""])
def test_a_body_that_is_no_object_is_422(ask, body):
    ask.error("POST", "/api/simulate", 422, content=body, headers={"content-type": "application/json"})


def test_a_body_that_is_too_large_is_413_before_it_is_read(asked_with):
    ask = asked_with(limits=Limits(body_bytes=1_000))
    error = ask.error("POST", "/api/simulate", 413, json={"agent": "x" * 2_000})
    assert "1,000" in error["message"]


def test_a_body_that_does_not_say_how_large_it_is_is_counted(asked_with):
    ask = asked_with(limits=Limits(body_bytes=1_000))

    async def pieces():
        for _ in range(100):
            yield b" " * 100

    sent = {"content": pieces(), "headers": {"content-type": "application/json"}}
    ask.error("POST", "/api/simulate", 413, **sent)


@pytest.mark.parametrize("length", ["-1", "1e3", "x", "9" * 30])
def test_a_length_that_is_no_number_is_refused(ask, length):
    answer = ask("POST", "/api/simulate", content=b"{}", headers={"content-length": length})
    assert answer.status_code in (400, 413)


async def talk(app, scope, receive):
    """What an ASGI app sends."""
    sent = []

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    return sent


SCOPE = {
    "type": "http",
    "http_version": "1.1",
    "method": "POST",
    "path": "/api/simulate",
    "raw_path": b"/api/simulate",
    "query_string": b"",
    "root_path": "",
    "scheme": "http",
    "server": ("127.0.0.1", 7860),
    "client": ("127.0.0.1", 1),
    "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
}


def test_a_client_that_sends_too_slowly_is_408():
    app = create_app(Limits(body_seconds=0.05))

    async def receive():
        await asyncio.sleep(10)
        return {"type": "http.request", "body": b"", "more_body": True}

    sent = asyncio.run(talk(app, SCOPE, receive))
    assert sent[0]["status"] == 408


def test_a_client_that_does_not_read_is_given_up():
    ended = []

    async def endless(scope, receive, send):
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
        finally:
            ended.append(True)

    async def stuck(message):
        if message["type"] == "http.response.body":
            await asyncio.sleep(10)

    async def never():
        await asyncio.sleep(10)

    asyncio.run(Guard(endless, Limits(send_seconds=0.05))(SCOPE, never, stuck))
    assert ended == [True]


@pytest.mark.parametrize(("kind", "whole"), [(b"application/json", False), (b"text/event-stream", True)])
def test_only_a_stream_may_be_read_for_ever(kind, whole):
    read = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        for _ in range(6):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        read.append(True)

    async def slow(message):
        await asyncio.sleep(0.05)

    async def never():
        await asyncio.sleep(10)

    asyncio.run(Guard(app, Limits(answer_seconds=0.15))(SCOPE, never, slow))
    assert bool(read) is whole


def test_no_more_is_made_than_clients_read(asked_with):
    ask = asked_with(limits=Limits(answer_bytes=1_000))
    ask.lab.held.bytes = 2_000
    answer = ask("POST", "/api/simulate", json={"agent": "lru", "ticks": 20})
    assert answer.status_code == 429 and answer.headers["retry-after"]
    ask.lab.held.bytes = 0
    assert ask("POST", "/api/simulate", json={"agent": "lru", "ticks": 400}).status_code == 200
    assert ask.lab.held.bytes == 0


def test_what_is_no_request_is_not_answered():
    async def call():
        return await talk(create_app(), {"type": "websocket", "path": "/", "headers": []}, None)

    assert asyncio.run(call()) == []


# Errors


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/api/simulate", 405),
        ("PATCH", "/api/settings", 405),
        ("GET", "/api/sessions/x/state", 404),
        ("GET", "/api/eviction/scenarios?difficulty=brutal", 404),
        ("GET", "/api/eviction/runs/none", 404),
        ("GET", "/api/hierarchy/traces/none", 404),
        ("GET", "/api/simulate/stream", 422),
        ("GET", "/api/simulate/stream?agent=lru&ticks=0", 422),
    ],
)
def test_every_error_has_one_shape(ask, method, path, status):
    error = ask.error(method, path, status)
    assert error["message"]


def test_a_bug_says_nothing_of_the_inside(monkeypatch):
    app = create_app()
    monkeypatch.setattr(app.state.lab.sessions, "room", lambda: 1 / 0)

    async def call():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.post("/api/sessions", json={})

    answer = asyncio.run(call())
    error = answer.json()["error"]
    assert answer.status_code == 500 and "ZeroDivisionError" in error["message"]
    assert "Traceback" not in answer.text and ".py" not in answer.text


def test_script_in_a_name_comes_back_as_json_alone(ask):
    name = "<script>alert(1)</script>"
    answer = ask("POST", "/api/simulate", json={"agent": name})
    assert answer.headers["content-type"] == "application/json" and name in answer.json()["error"]["message"]

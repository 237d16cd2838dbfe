"""Any decider is a chat model: the real openai client plays it and gets what the simulator gives."""

import asyncio
import json
import socket

import httpx
import openai
import pytest

from kv_cache_rl.adapters import requests
from kv_cache_rl.adapters.endpoint import EndpointError, create_app, listen, serving
from kv_cache_rl.adapters.requests import MAX_BODY_BYTES
from kv_cache_rl.sim.eviction import (
    DECIDERS,
    SYSTEM_PROMPT,
    TOOLS,
    Episode,
    parse_call,
    play,
    text_only_reply,
    tool_messages,
)


def client(base_url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=base_url, api_key="any", max_retries=0)


def opening(episode: Episode) -> list[dict]:
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": episode.prompt()}]


def advance(episode: Episode, messages: list[dict], message) -> None:
    """Plays the calls of an assistant message and appends what the environment answers."""
    calls = message.tool_calls or []
    messages.append(message.model_dump(exclude_none=True))
    texts = episode.step([parse_call(call.function.name, call.function.arguments) for call in calls])
    prompt = None if episode.done else episode.prompt()
    for call, content in zip(calls, tool_messages(texts, prompt), strict=True):
        messages.append({"role": "tool", "tool_call_id": call.id, "content": content})
    if not calls and prompt is not None:
        messages.append({"role": "user", "content": text_only_reply(prompt)})


@pytest.mark.parametrize("policy", DECIDERS)
def test_a_policy_behind_the_endpoint_plays_the_episode_it_plays_on_the_simulator(
    base_url, scenarios, policy
):
    episode = Episode(scenarios[2])
    messages = opening(episode)
    with client(base_url) as chat:
        while not episode.done:
            reply = chat.chat.completions.create(model=policy, messages=messages, tools=TOOLS)
            advance(episode, messages, reply.choices[0].message)
    direct = play(Episode(scenarios[2]), DECIDERS[policy]())
    assert episode.log == direct.log
    assert episode.report().total == direct.report().total


def test_many_episodes_at_once_do_not_disturb_each_other(base_url, scenarios):
    async def one(chat: openai.AsyncOpenAI, scenario) -> Episode:
        episode = Episode(scenario)
        messages = opening(episode)
        while not episode.done:
            reply = await chat.chat.completions.create(model="weigh_value", messages=messages, tools=TOOLS)
            advance(episode, messages, reply.choices[0].message)
        return episode

    async def all_of_them() -> list[Episode]:
        async with openai.AsyncOpenAI(base_url=base_url, api_key="any", max_retries=0) as chat:
            return await asyncio.gather(*(one(chat, scenario) for scenario in scenarios * 4))

    for episode in asyncio.run(all_of_them()):
        assert episode.log == play(Episode(episode.scenario), DECIDERS["weigh_value"]()).log


def collected(stream) -> tuple[str | None, list[tuple[str, str, str]], str | None, list]:
    """Content, calls (id, name, arguments), finish reason and usages of a stream, put together as a client
    does.
    """
    content, calls, reason, usages = None, {}, None, []
    for chunk in stream:
        if chunk.usage is not None:
            usages.append(chunk.usage)
        for choice in chunk.choices:
            reason = choice.finish_reason or reason
            content = (content or "") + choice.delta.content if choice.delta.content else content
            for part in choice.delta.tool_calls or []:
                call = calls.setdefault(part.index, ["", "", ""])
                call[0] += part.id or ""
                call[1] += part.function.name or ""
                call[2] += part.function.arguments or ""
    return content, [tuple(calls[index]) for index in sorted(calls)], reason, usages


@pytest.mark.parametrize("policy", ["evict_all", "compress_int8", "lru", "spam_invalid"])
def test_a_streamed_reply_adds_up_to_the_whole_reply(base_url, scenarios, policy):
    messages = opening(Episode(scenarios[0]))
    with client(base_url) as chat:
        whole = chat.chat.completions.create(model=policy, messages=messages, tools=TOOLS)
        options = {"include_usage": True}
        stream = chat.chat.completions.create(
            model=policy, messages=messages, tools=TOOLS, stream=True, stream_options=options
        )
        content, calls, reason, usages = collected(stream)
    message = whole.choices[0].message
    assert content == message.content
    assert calls == [
        (call.id, call.function.name, call.function.arguments) for call in message.tool_calls or []
    ]
    assert reason == whole.choices[0].finish_reason == ("tool_calls" if calls else "stop")
    assert [usage.completion_tokens for usage in usages] == [whole.usage.completion_tokens]


def test_a_stream_counts_usage_only_where_asked(base_url, scenarios):
    messages = opening(Episode(scenarios[0]))
    with client(base_url) as chat:
        stream = chat.chat.completions.create(model="keep", messages=messages, tools=TOOLS, stream=True)
        assert collected(stream)[3] == []


def test_usage_adds_up_and_grows_with_the_dialogue(base_url, scenarios):
    episode = Episode(scenarios[0])
    messages = opening(episode)
    with client(base_url) as chat:
        first = chat.chat.completions.create(model="evict_all", messages=messages, tools=TOOLS)
        advance(episode, messages, first.choices[0].message)
        second = chat.chat.completions.create(model="evict_all", messages=messages, tools=TOOLS)
    assert first.usage.total_tokens == first.usage.prompt_tokens + first.usage.completion_tokens
    added = sum(len(message.get("content") or "") for message in messages[2:])
    assert second.usage.prompt_tokens - first.usage.prompt_tokens >= added // 4
    assert first.usage.completion_tokens > 0


def test_models_are_the_deciders(base_url):
    with client(base_url) as chat:
        assert [model.id for model in chat.models.list()] == list(DECIDERS)
        assert chat.models.retrieve("lru").id == "lru"
        with pytest.raises(openai.NotFoundError, match="use one of"):
            chat.models.retrieve("gpt-5")


def test_tools_under_a_prefix_are_called_by_their_offered_names(base_url, scenarios):
    tools = [
        {"type": "function", "function": {**tool["function"], "name": f"kv_{tool['function']['name']}"}}
        for tool in TOOLS
    ]
    with client(base_url) as chat:
        reply = chat.chat.completions.create(
            model="evict_all", messages=opening(Episode(scenarios[0])), tools=tools
        )
    assert {call.function.name for call in reply.choices[0].message.tool_calls} == {"kv_evict"}


def test_a_client_that_wants_one_call_or_none_gets_one_or_none(base_url, scenarios):
    messages = opening(Episode(scenarios[0]))
    with client(base_url) as chat:
        one = chat.chat.completions.create(
            model="evict_all", messages=messages, tools=TOOLS, parallel_tool_calls=False
        )
        none = chat.chat.completions.create(
            model="evict_all", messages=messages, tools=TOOLS, tool_choice="none"
        )
    assert len(one.choices[0].message.tool_calls) == 1
    assert none.choices[0].message.tool_calls is None
    assert none.choices[0].message.content
    assert none.choices[0].finish_reason == "stop"


OBSERVATION = '{"visible_seq_ids":[]}'
ASKED = {"model": "keep", "messages": [{"role": "user", "content": OBSERVATION}], "tools": TOOLS}
BAD_REQUESTS = {
    "broken JSON": (b'{"model": ', 400, "not valid JSON"),
    "nesting without end": (b"[" * 200_000, 400, "not valid JSON"),
    "a list": (b"[]", 400, "send an object"),
    "no model": ({**ASKED, "model": None}, 400, "model is missing"),
    "unknown model": ({**ASKED, "model": "gpt-5"}, 404, "unknown model 'gpt-5'; use one of keep"),
    "no messages": ({**ASKED, "messages": []}, 400, "messages is missing or empty"),
    "messages of a wrong type": ({**ASKED, "messages": "hi"}, 400, "messages is missing or empty"),
    "a message of a wrong type": ({**ASKED, "messages": ["hi"]}, 400, "messages[0] is str"),
    "no observation": (
        {**ASKED, "messages": [{"role": "user", "content": "hi"}]},
        400,
        "holds an observation",
    ),
    "a megabyte of text": (
        {**ASKED, "messages": [{"role": "user", "content": "x" * 2**20}]},
        400,
        "holds an observation",
    ),
    "an observation cut short": ({**ASKED, "model": "lru"}, 400, "cannot read an observation"),
    "a tool that is named": (
        {**ASKED, "tool_choice": {"type": "function", "function": {"name": "keep"}}},
        400,
        "let tool_choice be auto, required or none",
    ),
    "no tools": ({**ASKED, "tools": []}, 400, "'evict' is not among the tools"),
    "null for tools": ({**ASKED, "tools": None}, 400, "'evict' is not among the tools"),
    "tools of a wrong type": ({**ASKED, "tools": {"a": 1}}, 400, "tools is not a list"),
    "tools without functions": (
        {**ASKED, "tools": [{"type": "function"}, 7]},
        400,
        "'evict' is not among the tools",
    ),
    "a verb twice": ({**ASKED, "tools": [*TOOLS, TOOLS[0]]}, 400, "'evict' fits 2 of the tools"),
    "two answers": ({**ASKED, "n": 2}, 400, "ask for n = 1"),
    "surrogates": (b'{"model": "\\ud800", "messages": [1], "tools": []}', 404, "unknown model"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_bad_request_gets_an_error_in_openai_shape_that_says_what_to_do(base_url, case):
    body, status, words = BAD_REQUESTS[case]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = httpx.post(f"{base_url}/chat/completions", content=content)
    error = reply.json()["error"]
    assert (reply.status_code, error["type"]) == (status, "invalid_request_error")
    assert words in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_a_body_over_the_limit_is_refused(base_url):
    reply = httpx.post(f"{base_url}/chat/completions", content=b" " * (MAX_BODY_BYTES + 1))
    assert reply.status_code == 413
    assert "send a shorter dialogue" in reply.json()["error"]["message"]


@pytest.mark.parametrize("length", [str(MAX_BODY_BYTES + 1), None])
def test_no_more_of_a_body_is_read_than_the_limit_allows(monkeypatch, length):
    monkeypatch.setattr(requests, "MAX_BODY_BYTES", 1000)
    asked, sent = 0, []

    async def receive() -> dict:
        nonlocal asked
        asked += 1
        return {"type": "http.request", "body": b" " * 300, "more_body": asked < 50}

    async def send(message: dict) -> None:
        sent.append(message)

    headers = [(b"content-length", length.encode())] if length else []
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "query_string": b"",
        "headers": headers,
    }
    asyncio.run(create_app("keep")(scope, receive, send))
    assert sent[0]["status"] == 413
    assert asked == (0 if length else 4)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nothing", 404), ("GET", "/chat/completions", 405)]
)
def test_an_unknown_page_or_method_names_the_known_ones(base_url, method, path, status):
    reply = httpx.request(method, base_url + path)
    assert reply.status_code == status
    assert "POST /v1/chat/completions" in reply.json()["error"]["message"]


def test_a_policy_that_breaks_is_a_server_error_with_its_reason(monkeypatch):
    def broken():
        def decide(_: dict) -> list:
            raise ZeroDivisionError("division by zero")

        return decide

    monkeypatch.setitem(DECIDERS, "broken", broken)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(create_app("broken"), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as chat:
            return await chat.post("/v1/chat/completions", json={**ASKED, "model": "broken"})

    reply = asyncio.run(ask())
    assert reply.status_code == 500
    assert reply.json()["error"]["message"] == "the policy failed with ZeroDivisionError: division by zero"


def test_a_server_for_one_policy_serves_that_one_only():
    with serving("lru") as url, client(url) as chat:
        assert [model.id for model in chat.models.list()] == ["lru"]
        with pytest.raises(openai.NotFoundError, match="use one of lru"):
            chat.chat.completions.create(model="keep", messages=[{"role": "user", "content": OBSERVATION}])


def test_a_server_in_a_process_of_its_own_answers_and_ends_with_the_block():
    with serving("keep", process=True) as url, client(url) as chat:
        assert [model.id for model in chat.models.list()] == ["keep"]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/models")


def test_a_taken_port_and_an_unknown_policy_are_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EndpointError, match=f"127.0.0.1:{port} .* or 0 for a free one"):
            listen(port)
    with (
        pytest.raises(EndpointError, match="unknown policy 'lruu'; did you mean lru\\? use one of keep"),
        serving("lruu"),
    ):
        pass

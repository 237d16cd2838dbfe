"""The endpoint: what a client is answered, and that requests which come together are one batch."""

import asyncio
import json

import httpx
import pytest

from kv_cache_rl.adapters.expert import opening
from kv_cache_rl.sim.eviction import TOOLS, Episode, load_scenarios
from training import models, serve
from training.generation import Generated
from training.tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> models.Loaded:
    return models.with_adapter(
        models.load_base(str(tiny.save(tmp_path_factory.mktemp("tiny")))), seed=0, rank=4
    )


@pytest.fixture(scope="module")
def body() -> dict:
    prompt = Episode(load_scenarios(split="eval", num_examples=1)[0], "brief").prompt()
    return {"model": "m", "messages": opening("brief", prompt), "tools": TOOLS}


def ask(loaded: models.Loaded, bodies: list[dict], told: list[str] | None = None) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        app = serve.app_of(loaded, "m", (told if told is not None else []).append)
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await asyncio.gather(*(client.post("/v1/chat/completions", json=one) for one in bodies))

    return asyncio.run(run())


def test_requests_that_come_together_are_one_batch_and_an_answer_becomes_calls(loaded, body, monkeypatch):
    batches = []

    def scripted(_, prompts, seen, temperature, most, generator):
        assert len(seen) == len(prompts) and all("rows" in one for one in seen)
        batches.append((len(prompts), temperature, most))
        return [Generated([5, 6], " a half80 b drop70 c keep", False, []) for _ in prompts]

    monkeypatch.setattr(serve, "generate", scripted)
    told: list[str] = []
    warm = body | {"temperature": 0.7, "max_tokens": 9}
    answers = [response.json() for response in ask(loaded, [body] * 5 + [warm], told)]
    assert batches == [(5, 0.0, serve.MOST), (1, 0.7, 9)] and told[0].startswith("6 requests")
    ids = [row.split(" ")[0] for row in json.loads(body["messages"][1]["content"])["rows"]]
    choice = answers[0]["choices"][0]
    calls = [
        (one["function"]["name"], json.loads(one["function"]["arguments"]))
        for one in choice["message"]["tool_calls"]
    ]
    assert calls == [("evict", {"seq_id": ids[1]}), ("compress", {"seq_id": ids[0]})]
    assert choice["finish_reason"] == "tool_calls" and answers[0]["usage"]["completion_tokens"] == 2


def test_what_cannot_be_read_comes_back_as_text_and_a_cut_answer_says_so(loaded, body, monkeypatch):
    said = iter([Generated([5], "I would keep all.", False, []), Generated([5], " a half80 b", True, [])])
    monkeypatch.setattr(serve, "generate", lambda *_: [next(said)])
    for reason, text in (("stop", "I would keep all."), ("length", " a half80 b")):
        (response,) = ask(loaded, [body])
        choice = response.json()["choices"][0]
        assert choice["finish_reason"] == reason and choice["message"] == {
            "role": "assistant",
            "content": text,
        }


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"model": "x"}, 404, "unknown model 'x'"),
        ({"stream": True}, 400, "does not stream"),
        ({"temperature": -1}, 400, "send a number from 0 to 10"),
        ({"max_tokens": 0}, 400, "send a whole number from 1 on"),
        ({"messages": [{"role": "user", "content": "x " * 6000}]}, 400, "ask with --history window"),
        ({"messages": ["x"]}, 400, "messages"),
    ],
)
def test_a_bad_request_is_refused_with_the_remedy(loaded, body, change, status, says):
    (response,) = ask(loaded, [body | change])
    assert response.status_code == status and says in response.json()["error"]["message"]


def test_a_model_that_fails_answers_500_and_the_server_goes_on(loaded, body, monkeypatch):
    def broken(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(serve, "generate", broken)
    assert [response.status_code for response in ask(loaded, [body, body])] == [500, 500]


def test_a_client_that_has_gone_does_not_stop_the_server(loaded, body, monkeypatch):
    def broken(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(serve, "generate", broken)

    async def run() -> None:
        batcher = serve.Batcher(loaded, lambda _: None, 0)
        running = asyncio.create_task(batcher.run())
        for _ in range(2):
            gone, waits = (asyncio.create_task(batcher.answer(serve.asked(loaded, body))) for _ in range(2))
            await asyncio.sleep(0)
            gone.cancel()
            with pytest.raises(serve.BadRequest, match="no room"):
                await asyncio.wait_for(waits, 30)
        assert not running.done()
        running.cancel()

    asyncio.run(run())

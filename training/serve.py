"""The model as an OpenAI-compatible chat model on loopback: what `kv-cache-rl eval` asks.

    requests that come together are one batch: all rollouts that are in flight ask at about the same time
    messages -> chat template -> tokens -> answer -> parser of tool calls -> tool_calls, or content

The parser (`wording.read`) is to this model what vLLM's --tool-call-parser plugins are to others. An answer
that it cannot read comes back as text."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from kv_cache_rl.extras import need

need("training serve", "fastapi", "uvicorn", "openai", extra="eval")

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response

from kv_cache_rl.adapters.dialogue import DialogueError, arguments_of, tool_call
from kv_cache_rl.adapters.endpoint import base_url_of
from kv_cache_rl.adapters.listening import listen
from kv_cache_rl.adapters.requests import BadRequest, LocalOnly, json_response, read_body, read_request
from training.batches import prompt_ids
from training.generation import MOST, Generated, generate, merged
from training.models import Loaded
from training.wording import observed

QUIET = 0.3
"""Seconds without a new request after which a batch begins."""


@dataclass(slots=True)
class Asked:
    """A request that waits for its batch."""

    prompt: list[int]
    observation: dict | None
    temperature: float
    most: int
    answer: asyncio.Future


def asked(loaded: Loaded, request: dict) -> Asked:
    """A checked request as the model takes it. Raises BadRequest where it cannot be."""
    if request.get("stream"):
        raise BadRequest(400, "this server does not stream; leave out stream", "stream")
    temperature, most = request.get("temperature"), MOST
    for name in ("max_tokens", "max_completion_tokens"):
        most = request[name] if request.get(name) is not None else most
    temperature = 0.0 if temperature is None else temperature
    if not isinstance(temperature, int | float) or not 0 <= temperature <= 10:
        raise BadRequest(400, f"temperature is {temperature!r}; send a number from 0 to 10", "temperature")
    if not isinstance(most, int) or most < 1:
        raise BadRequest(400, f"max_tokens is {most!r}; send a whole number from 1 on", "max_tokens")
    try:
        prompt, seen = prompt_ids(loaded.tokenizer, request["messages"]), observed(request["messages"])
    except DialogueError as error:
        raise BadRequest(400, str(error), "messages") from error
    except Exception as error:  # templates raise whatever their author chose
        raise BadRequest(
            400,
            f"the chat template cannot render the messages ({type(error).__name__}: {error!s:.200})",
            "messages",
        ) from error
    context = loaded.network.config.max_position_embeddings
    if len(prompt) + 1 > context:
        raise BadRequest(
            400,
            f"the prompt has {len(prompt)} tokens, the context {context}; ask with --history window",
            "messages",
        )
    return Asked(
        prompt,
        seen,
        float(temperature),
        min(most, context - len(prompt)),
        asyncio.get_running_loop().create_future(),
    )


def completion(name: str, request: Asked, said: Generated, number: int) -> dict:
    """The body of a chat completion."""
    calls = said.calls(request.observation)
    message: dict[str, Any] = {"role": "assistant", "content": said.text if calls is None else None}
    if calls:
        message["tool_calls"] = [
            tool_call(f"call_{number}_{k}", call.verb, arguments_of(call)) for k, call in enumerate(calls)
        ]
    reason = "length" if said.cut else "tool_calls" if calls else "stop"
    read_tokens, wrote = len(request.prompt), len(said.tokens)
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": name,
        "choices": [{"index": 0, "finish_reason": reason, "message": message, "logprobs": None}],
        "usage": {
            "prompt_tokens": read_tokens,
            "completion_tokens": wrote,
            "total_tokens": read_tokens + wrote,
        },
    }


class Batcher:
    """Gathers requests until none has come for a moment, and answers them in one batch per temperature."""

    def __init__(self, loaded: Loaded, tell: Callable[[str], None], seed: int) -> None:
        self.loaded, self.tell = loaded, tell
        self.waiting: list[Asked] = []
        self.came = asyncio.Event()
        self.generator = torch.Generator().manual_seed(seed)

    async def answer(self, request: Asked) -> Generated:
        self.waiting.append(request)
        self.came.set()
        return await request.answer

    async def run(self) -> None:
        while True:
            await self.came.wait()
            count = 0
            while count < len(self.waiting):
                count = len(self.waiting)
                await asyncio.sleep(QUIET)
            batch, self.waiting = self.waiting, []
            self.came.clear()
            began = time.monotonic()
            for ways in sorted({(one.temperature, one.most) for one in batch}):
                await self._answer([one for one in batch if (one.temperature, one.most) == ways], *ways)
            self.tell(f"{len(batch)} requests answered in {time.monotonic() - began:.1f} s")

    async def _answer(self, batch: list[Asked], temperature: float, most: int) -> None:
        prompts, seen = [one.prompt for one in batch], [one.observation for one in batch]
        try:
            said = await asyncio.to_thread(
                generate, self.loaded, prompts, seen, temperature, most, self.generator
            )
        except Exception as error:  # each client gets an answer, and the server goes on
            why = BadRequest(500, f"the model failed with {type(error).__name__}: {error!s:.200}")
            said = [why] * len(batch)
        for one, answer in zip(batch, said, strict=True):
            if one.answer.done():  # the client has gone
                continue
            if isinstance(answer, BadRequest):
                one.answer.set_exception(answer)
            else:
                one.answer.set_result(answer)


def app_of(loaded: Loaded, name: str, tell: Callable[[str], None], seed: int = 0) -> FastAPI:
    """The server as an ASGI app, which serves the model under this name."""
    app = FastAPI(title="a language model that was trained on kv-cache-eviction", openapi_url=None)
    app.add_middleware(LocalOnly)
    batcher = Batcher(loaded, tell, seed)
    running: list[asyncio.Task] = []
    answered = 0

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        nonlocal answered
        if not running:
            running.append(asyncio.create_task(batcher.run()))
        one = asked(loaded, read_request(await read_body(request), [name]))
        said = await batcher.answer(one)
        answered += 1
        return json_response(completion(name, one, said, answered))

    @app.get("/v1/models")
    async def models() -> Response:
        card = {"id": name, "object": "model", "created": 0, "owned_by": "kv-cache-rl"}
        return json_response({"object": "list", "data": [card]})

    @app.exception_handler(BadRequest)
    async def refused(_: Request, error: BadRequest) -> Response:
        return error.response()

    return app


def serve(loaded: Loaded, name: str, port: int, tell: Callable[[str], None]) -> None:
    """Serves on loopback until interrupted. Raises EndpointError for a port that is taken."""
    loaded.network.eval()
    with listen(port) as listener, merged(loaded):
        tell(f"{name} at {base_url_of(listener)}; Ctrl-C stops")
        config = uvicorn.Config(app_of(loaded, name, tell), log_level="warning", lifespan="off")
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])

"""An OpenAI-compatible chat server on loopback whose models are the deciders of a world.

``POST /v1/chat/completions`` (with and without streaming) and ``GET /v1/models``. The name of the
model is that of the decider. Sampling parameters are accepted and ignored: a decider is
deterministic. Errors have OpenAI's shape, so that any client shows them; their text says what to
send instead."""

import argparse
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kv_cache_rl.extras import need

need("serving a policy as a chat model", "fastapi", "uvicorn", "openai")

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from openai.types import Model
from starlette.exceptions import HTTPException

from kv_cache_rl.adapters import heuristic_model
from kv_cache_rl.adapters.dialogue import DialogueError, answer, arguments_of, observation_texts
from kv_cache_rl.adapters.listening import EndpointError, listen
from kv_cache_rl.adapters.replies import Reply, chunks, completion, offered_names
from kv_cache_rl.adapters.requests import (
    BadRequest,
    LocalOnly,
    json_response,
    no_such_model,
    read_body,
    read_request,
)
from kv_cache_rl.core.errors import unknown
from kv_cache_rl.sim.eviction import DECIDERS, Episode, load_scenarios


def known_policy(name: str, world: str = "eviction") -> str:
    """The name itself. Raises EndpointError for a decider that the world does not have."""
    if name not in WORLDS[world].models:
        raise EndpointError(unknown("policy", name, WORLDS[world].models))
    return name


def make_reply(request: dict, prompt_bytes: int) -> Reply:
    """The decider's answer to a checked request.

    Raises BadRequest where the dialogue or its tools cannot be read.
    """
    model, plays = request["model"], request.get("tool_choice") != "none"
    try:
        texts = observation_texts(request["messages"])
    except DialogueError as error:
        raise BadRequest(400, str(error), "messages") from error
    try:
        names = offered_names(request.get("tools") or []) if plays else {}
    except DialogueError as error:
        raise BadRequest(400, str(error), "tools") from error
    try:
        key, calls = answer(model, texts)
    except DialogueError as error:
        raise BadRequest(400, str(error), "messages") from error
    if request.get("parallel_tool_calls") is False:
        calls = calls[:1]
    made = tuple((call.verb, arguments_of(call)) for call in calls)
    return Reply(key, model, int(time.time()), made if plays else (), names, prompt_bytes)


@dataclass(frozen=True, slots=True)
class World:
    """Whose deciders are served."""

    models: Collection[str]
    reply: Callable[[dict, int], Reply]
    """(checked request, its bytes) -> the answer. Raises BadRequest."""


WORLDS = {
    "eviction": World(DECIDERS, make_reply),
    "serving": World(heuristic_model.MODELS, heuristic_model.make_reply),
}


def create_app(policy: str | None = None, local: bool = False, world: str = "eviction") -> FastAPI:
    """The server as an ASGI app. With a policy it serves that one only; `local` asks for a loopback name."""
    models = [known_policy(policy, world)] if policy else list(WORLDS[world].models)
    app = FastAPI(title="kv-cache-rl policies as chat models", openapi_url=None)
    if local:
        app.add_middleware(LocalOnly)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        raw = await read_body(request)
        body = read_request(raw, models)
        reply = WORLDS[world].reply(body, len(raw))
        if not body.get("stream"):
            return Response(completion(reply), media_type="application/json")
        options = body.get("stream_options")
        include_usage = isinstance(options, dict) and bool(options.get("include_usage"))
        return StreamingResponse(chunks(reply, include_usage), media_type="text/event-stream")

    def card(name: str) -> dict:
        return Model(id=name, object="model", created=0, owned_by="kv-cache-rl").model_dump()

    @app.get("/v1/models")
    async def list_models() -> Response:
        return json_response({"object": "list", "data": [card(name) for name in models]})

    @app.get("/v1/models/{name}")
    async def one_model(name: str) -> Response:
        if name not in models:
            raise no_such_model(name, models)
        return json_response(card(name))

    @app.exception_handler(BadRequest)
    async def refused(_: Request, error: BadRequest) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def no_such_page(request: Request, error: HTTPException) -> Response:
        known = "POST /v1/chat/completions, GET /v1/models"
        return BadRequest(
            error.status_code, f"{request.method} {request.url.path}: {error.detail}; try {known}"
        ).response()

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return BadRequest(500, f"the policy failed with {type(error).__name__}: {error}").response()

    return app


def base_url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{host}:{port}/v1"


def server_for(policy: str | None, world: str = "eviction") -> uvicorn.Server:
    app = create_app(policy, local=True, world=world)
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))


def compiled() -> None:
    """Has what every policy answers with compiled before the first request."""
    answer(min(DECIDERS), [Episode(load_scenarios(num_examples=1)[0]).prompt()])


@contextmanager
def serving(
    policy: str | None = None, port: int = 0, process: bool = False, world: str = "eviction"
) -> Iterator[str]:
    """The base URL of a server that lives as long as the block, in a thread or in its own process."""
    if policy is not None:
        known_policy(policy, world)
    listener = listen(port)
    run = served_by_process if process else served_by_thread
    with listener, run(policy, listener, world):
        yield base_url_of(listener)


@contextmanager
def served_by_thread(policy: str | None, listener: socket.socket, world: str) -> Iterator[None]:
    server = server_for(policy, world=world)
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="policy-endpoint", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(timeout=10)


@contextmanager
def served_by_process(policy: str | None, listener: socket.socket, world: str) -> Iterator[None]:
    """The child inherits the socket, so that requests wait until it is ready. It ends with its stdin."""
    listener.set_inheritable(True)
    command = [sys.executable, "-m", __spec__.name, "--socket", str(listener.fileno()), "--world", world]
    command += ["--policy", policy] if policy else []
    child = subprocess.Popen(
        command, pass_fds=[listener.fileno()], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        yield
    finally:
        child.terminate()
        child.wait(timeout=10)


def main() -> None:
    """Serves on an inherited socket until stdin closes: the child of `serving(process=True)`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--socket", type=int, required=True)
    parser.add_argument("--policy")
    parser.add_argument("--world", default="eviction")
    arguments = parser.parse_args()
    server = server_for(arguments.policy, world=arguments.world)

    def stop_with_parent() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=stop_with_parent, daemon=True).start()
    server.run(sockets=[socket.socket(fileno=arguments.socket)])


if __name__ == "__main__":
    main()

"""An OpenAI-compatible chat server on loopback whose models are the deciders.

``POST /v1/chat/completions`` (with and without streaming) and ``GET /v1/models``. The name of the
model is that of the decider. Sampling parameters are accepted and ignored: a decider is
deterministic. Errors have OpenAI's shape, so that any client shows them; their text says what to
send instead."""

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kv_cache_rl.extras import need

need("serving a policy as a chat model", "fastapi", "uvicorn", "openai")

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from openai.types import Model
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from kv_cache_rl.adapters.dialogue import DialogueError, answer, observation_texts
from kv_cache_rl.adapters.replies import Reply, chunks, completion, offered_names
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.sim.eviction import DECIDERS

HOST = "127.0.0.1"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""The names under which a request may ask a server on loopback: a web page that has another name point here
(DNS rebinding) is refused."""
MAX_BODY_BYTES = 32 * 1024 * 1024
BODY_SECONDS = 30.0
"""How long a client may take to send its request."""


class EndpointError(Refused):
    """The server cannot start; the text says what to change."""


class BadRequest(Refused):
    """A request that is answered with an error in OpenAI's shape."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def response(self) -> Response:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return json_response({"error": error}, self.status)


def json_response(body: Any, status: int = 200) -> Response:
    return Response(json.dumps(body), status, media_type="application/json")


def known_policy(name: str) -> str:
    """The name itself. Raises EndpointError for a decider that does not exist."""
    if name not in DECIDERS:
        raise EndpointError(f"there is no policy {name!r}; choose one of {', '.join(DECIDERS)}")
    return name


async def read_body(request: Request) -> bytes:
    """The body, of which no more is read than the limit allows. Raises BadRequest for more or less."""
    try:
        announced = int(request.headers.get("content-length", 0))
    except ValueError:
        raise BadRequest(400, "content-length is no number; send the length of the body in bytes") from None
    body = bytearray()
    if announced <= MAX_BODY_BYTES:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.stream():
                    body += part
                    if len(body) > MAX_BODY_BYTES:
                        break
        except TimeoutError:
            what = f"{len(body):,} bytes of the body came in {BODY_SECONDS:g} s"
            raise BadRequest(408, f"{what}, and it is not whole; send it again at once") from None
        except ClientDisconnect:  # nobody reads this answer
            raise BadRequest(400, "the client hung up before its request was whole") from None
    size = max(announced, len(body))
    if size > MAX_BODY_BYTES:
        raise BadRequest(
            413,
            f"the request has {size:,} bytes or more, the limit is {MAX_BODY_BYTES:,}; "
            "send a shorter dialogue",
        )
    return bytes(body)


def read_request(raw: bytes, models: Sequence[str]) -> dict:
    """The request as a dict with a known model, messages, and tools. Raises BadRequest where it has none."""
    try:
        request = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadRequest(400, f"the body is not valid JSON ({error}); send a JSON object") from None
    if not isinstance(request, dict):
        raise BadRequest(
            400, f"the body is a JSON {type(request).__name__}; send an object with model, messages and tools"
        )
    model = request.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequest(400, f"model is missing; name one of {', '.join(models)}", "model")
    if model not in models:
        raise BadRequest(
            404,
            f"there is no model {model!r} here; choose one of {', '.join(models)}",
            "model",
            "model_not_found",
        )
    if not isinstance(request.get("messages"), list) or not request["messages"]:
        raise BadRequest(
            400, "messages is missing or empty; send the dialogue as a list of messages", "messages"
        )
    if not isinstance(request.get("tools") or [], list):
        raise BadRequest(400, "tools is not a list; send the environment's tool definitions", "tools")
    if request.get("n") not in (None, 1):
        raise BadRequest(400, f"n is {request['n']}; a policy has one answer, so ask for n = 1", "n")
    return request


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
    return Reply(key, model, int(time.time()), calls if plays else (), names, prompt_bytes)


def host_name(header: str) -> str:
    """The name in a Host header, without the port.

    >>> host_name("[::1]:8000"), host_name("localhost:8000"), host_name("127.0.0.1")
    ('::1', 'localhost', '127.0.0.1')
    """
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()


class LocalOnly:
    """Refuses requests that ask for another host than loopback."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = next((value for name, value in scope.get("headers", ()) if name == b"host"), b"")
        name = host_name(asked.decode("latin-1"))
        if scope["type"] == "http" and name and name not in LOOPBACK:
            text = f"this server answers on this machine only, not as {name[:80]!r}; ask for 127.0.0.1"
            await BadRequest(403, text).response()(scope, receive, send)
            return
        await self.app(scope, receive, send)


def create_app(policy: str | None = None, local: bool = False) -> FastAPI:
    """The server as an ASGI app. With a policy it serves that one only; `local` asks for a loopback name."""
    models = [known_policy(policy)] if policy else list(DECIDERS)
    app = FastAPI(title="kv-cache-rl policies as chat models", openapi_url=None)
    if local:
        app.add_middleware(LocalOnly)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        raw = await read_body(request)
        body = read_request(raw, models)
        reply = make_reply(body, len(raw))
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
            raise BadRequest(
                404,
                f"there is no model {name!r} here; choose one of {', '.join(models)}",
                "model",
                "model_not_found",
            )
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


def listen(port: int, host: str = HOST) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises EndpointError where the port is not free.

    The protocol is spelled out: asyncio turns off Nagle's algorithm (40 ms per reply) only on
    sockets that name it."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        listener.close()
        raise EndpointError(
            f"cannot listen on {host}:{port} ({error}); give another --port, or 0 for a free one"
        ) from error
    return listener


def base_url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{host}:{port}/v1"


def server_for(policy: str | None, local: bool = True) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(create_app(policy, local), log_level="warning", access_log=False, lifespan="off")
    )


def serve(policy: str | None = None, port: int = 8000, host: str = HOST) -> None:
    """Serves until interrupted. Raises EndpointError for an unknown policy or a taken port."""
    server = server_for(policy, local=host in LOOPBACK)
    server.run(sockets=[listen(port, host)])


@contextmanager
def serving(policy: str | None = None, port: int = 0, process: bool = False) -> Iterator[str]:
    """The base URL of a server that lives as long as the block, in a thread or in its own process."""
    if policy is not None:
        known_policy(policy)
    listener = listen(port)
    run = served_by_process if process else served_by_thread
    with listener, run(policy, listener):
        yield base_url_of(listener)


@contextmanager
def served_by_thread(policy: str | None, listener: socket.socket) -> Iterator[None]:
    server = server_for(policy)
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
def served_by_process(policy: str | None, listener: socket.socket) -> Iterator[None]:
    """The child inherits the socket, so that requests wait until it is ready. It ends with its stdin."""
    listener.set_inheritable(True)
    command = [sys.executable, "-m", __spec__.name, "--socket", str(listener.fileno())]
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
    arguments = parser.parse_args()
    server = server_for(arguments.policy)

    def stop_with_parent() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=stop_with_parent, daemon=True).start()
    server.run(sockets=[socket.socket(fileno=arguments.socket)])


if __name__ == "__main__":
    main()

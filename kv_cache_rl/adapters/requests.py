"""What comes in to the chat server: its body, read whole and checked, and the host that it asks for."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from kv_cache_rl.core.errors import Refused, unknown

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""The names under which a request may ask a server on loopback: a web page that has another name point here
(DNS rebinding) is refused."""
MAX_BODY_BYTES = 32 * 1024 * 1024
BODY_SECONDS = 30.0
"""How long a client may take to send its request."""


class BadRequest(Refused):
    """A request that is answered with an error in OpenAI's shape."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def response(self) -> Response:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return json_response({"error": error}, self.status)


def no_such_model(name: str, models: Iterable[str]) -> BadRequest:
    """What a request for a model that is not served here is told."""
    return BadRequest(404, unknown("model", name, models), "model", "model_not_found")


def json_response(body: Any, status: int = 200) -> Response:
    return Response(json.dumps(body), status, media_type="application/json")


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
        except ClientDisconnect:  # no client reads this answer
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
        raise no_such_model(model, models)
    if not isinstance(request.get("messages"), list) or not request["messages"]:
        raise BadRequest(
            400, "messages is missing or empty; send the dialogue as a list of messages", "messages"
        )
    if not isinstance(request.get("tools") or [], list):
        raise BadRequest(400, "tools is not a list; send the environment's tool definitions", "tools")
    if request.get("n") not in (None, 1):
        raise BadRequest(400, f"n is {request['n']}; a policy has one answer, so ask for n = 1", "n")
    if request.get("tool_choice") not in (None, "none", "auto", "required"):
        raise BadRequest(
            400, "a policy chooses its tools itself; let tool_choice be auto, required or none", "tool_choice"
        )
    return request


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

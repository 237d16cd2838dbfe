"""What comes in as JSON, read as strictly as files are; what goes out, in pieces that a slow reader holds up
one at a time; and types of fields whose errors name the range.
"""

import math
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Annotated, Any

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from kv_cache_rl.adapters.http.errors import OutOfRange, Problem
from kv_cache_rl.core.numbers import is_number
from kv_cache_rl.files import NotJson, json_text, json_value

PIECE = 64 * 1024
"""Bytes of an answer that are written at a time."""


class StrictRequest(Request):
    """A request whose JSON has each key once, no NaN, and no nesting without end."""

    async def json(self) -> Any:
        try:
            return json_value(await self.body())
        except NotJson as error:
            raise Problem(400, f"the body cannot be read: {error}; send a JSON object") from None


class Route(APIRoute):
    """A route that reads its body strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(StrictRequest(request.scope, request.receive))

        return handle


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """The value as JSON, null in place of NaN; a long text is written in pieces."""
    return text_response(json_text(value, indent=None), status, headers)


def text_response(text: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON text as an answer."""
    data, headers = text.encode(), {"cache-control": "no-store", **(headers or {})}
    if len(data) <= PIECE:
        return Response(data, status, headers, media_type="application/json")

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), PIECE):
            yield data[start : start + PIECE]

    return StreamingResponse(pieces(), status, headers, media_type="application/json")


class Body(BaseModel):
    """A request's body: no field of another name, no value of another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def whole(low: int, high: int, text: bool = False) -> Any:
    """A whole number within these bounds; with `text` it may be written in a query."""
    said = f"a whole number from {low:,} to {high:,}"

    def read(value: Any) -> int:
        if text and isinstance(value, str) and value.lstrip("-").isascii() and value.lstrip("-").isdigit():
            value = int(value) if len(value) <= 20 else value
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise OutOfRange(said)
        return value

    return Annotated[
        int, BeforeValidator(read), WithJsonSchema({"type": "integer", "minimum": low, "maximum": high})
    ]


def number(low: float, high: float) -> Any:
    """A number within these bounds."""
    said = f"a number from {low:g} to {high:g}"

    def read(value: Any) -> float:
        if not is_number(value) or not math.isfinite(value) or not low <= value <= high:
            raise OutOfRange(said)
        return value

    return Annotated[
        float, BeforeValidator(read), WithJsonSchema({"type": "number", "minimum": low, "maximum": high})
    ]


Name = Annotated[str, Field(min_length=1, max_length=200)]
"""A name that the server knows, or does not."""

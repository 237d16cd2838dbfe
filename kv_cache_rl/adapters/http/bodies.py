"""What comes in as JSON, read as strictly as files are; what goes out, in pieces that a slow reader holds up
one at a time; and types of fields whose errors name the range.
"""

import re
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Annotated, Any, get_origin

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import core_schema

from kv_cache_rl.adapters.http.errors import OutOfRange, Problem
from kv_cache_rl.core.numbers import shown
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
    """A route that reads its body strictly, and takes no query that it does not know, or knows once."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        kinds = {found.alias: found.field_info.annotation for found in self.dependant.query_params}
        lists = {name for name, kind in kinds.items() if get_origin(kind) is list}

        async def handle(request: Request) -> Response:
            for name in request.query_params:
                if name not in kinds:
                    takes = f"one of {', '.join(kinds)}" if kinds else "none"
                    raise Problem(422, f"there is no query parameter {shown(name)}; give {takes}", name)
                times = len(request.query_params.getlist(name))
                if times > 1 and name not in lists:
                    raise Problem(
                        422, f"the query parameter {name} is given {times} times; give it once", name
                    )
            return await handler(StrictRequest(request.scope, request.receive))

        return handle


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """The value as JSON, null in place of NaN; a long text is written in pieces."""
    return text_response(json_text(value, indent=None), status, headers)


class Held:
    """Bytes of long answers that clients are reading now."""

    bytes = 0


def text_response(
    text: str, status: int = 200, headers: dict[str, str] | None = None, held: Held | None = None
) -> Response:
    """JSON text as an answer; a long one counts in `held` while it is read."""
    held = held or Held()
    data, headers = text.encode(), {"cache-control": "no-store", **(headers or {})}
    if len(data) <= PIECE:
        return Response(data, status, headers, media_type="application/json")

    async def pieces() -> AsyncIterator[bytes]:
        held.bytes += len(data)
        try:
            for start in range(0, len(data), PIECE):
                yield data[start : start + PIECE]
        finally:
            held.bytes -= len(data)

    return StreamingResponse(pieces(), status, headers, media_type="application/json")


class Body(BaseModel):
    """A request's body: no field of another name, no value of another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Whole:
    """Whole numbers within these bounds, as ``Annotated[int, Whole(1, 9)]``.

    Args:
        text: they may be written as text, as in a query.
    """

    def __init__(self, low: int, high: int, text: bool = False) -> None:
        self.low, self.high, self.text = low, high, text
        self.range = f"a whole number from {low:,} to {high:,}"

    def read(self, value: Any) -> int:
        """The value. Raises OutOfRange for any other."""
        if self.text and isinstance(value, str) and WRITTEN.fullmatch(value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not self.low <= value <= self.high:
            raise OutOfRange(self.range)
        return value

    def __get_pydantic_core_schema__(self, *_: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, *_: Any) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


WRITTEN = re.compile("-?[0-9]{1,20}")
Name = Annotated[str, Field(min_length=1, max_length=200)]
"""A name that the server knows, or does not."""

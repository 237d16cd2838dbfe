"""Errors as every route answers them: one shape, made from `Refused`.

{"error": {"status": 422, "message": "ticks is 0; give …", "field": "ticks", "range": "a whole number …"}}
"""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from kv_cache_rl.core.errors import Refused, unknown
from kv_cache_rl.core.numbers import shown
from kv_cache_rl.files import json_text

LONGEST_MESSAGE = 1_000
"""Characters of a message: what a client sends is quoted, and could be long."""


class Problem(Refused, HTTPException):
    """A request that is answered with an error: which status, which field, what the field takes."""

    def __init__(
        self,
        status: int,
        message: str,
        field: str | None = None,
        range: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        HTTPException.__init__(self, status, message)
        self.args = (message,)
        self.field, self.range, self.retry_after_s = field, range, retry_after_s

    def __str__(self) -> str:
        return str(self.args[0])

    def response(self) -> Response:
        error = {
            "status": self.status_code,
            "message": whole_text(str(self))[:LONGEST_MESSAGE],
            "field": self.field and whole_text(self.field)[:80],
            "range": self.range,
        }
        response = Response(json_text({"error": error}), self.status_code, media_type="application/json")
        if self.retry_after_s is not None:
            response.headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        return response


class ErrorBody(BaseModel):
    """What is wrong with a request."""

    status: int
    message: str
    """What happened, with the numbers, and what to do."""
    field: str | None
    """Which field of the request, if one."""
    range: str | None
    """What the field takes."""


class Error(BaseModel):
    """The answer to every request that cannot be served."""

    error: ErrorBody


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors that a route documents; every route has the ones that the door answers with."""
    told = {400: "Malformed", 403: "Foreign Host or Origin", 408: "Sent too slowly", 413: "Too large"}
    told |= {
        404: "No such thing",
        409: "Busy or over",
        422: "A value is wrong",
        429: "Too many; see Retry-After",
    }
    told |= {503: "Took too long"}
    return {status: {"model": Error, "description": told[status]} for status in (400, 403, *statuses)}


def links(name: str, *operations: str) -> dict[str, Any]:
    """What a client may do with what it made: operations whose `id` is this field of the answer."""
    return {one: {"operationId": one, "parameters": {"id": f"$response.body#/{name}"}} for one in operations}


def no_such(kind: str, name: str, known: Iterable[str], field: str) -> Problem:
    """404, with the nearest name that exists."""
    return Problem(404, unknown(kind, name, known), field)


def whole_text(text: str) -> str:
    """The text without halves of characters, which no answer could hold."""
    return text.encode("utf-8", "replace").decode()


def of_refused(error: Refused, fields: Iterable[str] = (), prefix: str = "") -> Problem:
    """A refusal of the simulators as 422; its field is the one that the text begins with.

    >>> of_refused(Refused("ticks is 0; give a whole number from 1 to 9"), ["ticks"]).range
    'a whole number from 1 to 9'
    """
    if isinstance(error, Problem):
        return error
    text = str(error)
    first = re.match(r"(?:unknown )?(\w+)", text)
    field = first[1] if first and first[1] in set(fields) else None
    range = re.search(r"; give ([^;]+)$", text)
    return Problem(422, text, field and prefix + field, range[1] if range else None)


INSIDE = re.compile(r"(int|float|str|bool|dict|list)(\[.*\])?|\[key\]|(function|constrained)-.*")
"""What pydantic adds to a place: which of several types it tried, which is no field of the request."""


def of_validation(errors: Iterable[Any]) -> Problem:
    """What pydantic finds, as one 422 about the first of its errors."""
    error = next(iter(errors))
    place = [str(part) for part in error["loc"] if part not in ("body", "query", "path", "header")]
    if error["type"] != "extra_forbidden" and len(place) > 1 and INSIDE.fullmatch(place[-1]):
        place.pop()
    field = ".".join(place) or None
    named = field or "the body"
    wrong = (error.get("ctx") or {}).get("error")
    if isinstance(wrong, OutOfRange):
        return Problem(422, f"{named} is {shown(error.get('input'))}; give {wrong.range}", field, wrong.range)
    if isinstance(error.get("input"), bytes):
        header = "content-type: application/json"
        return Problem(
            422, f"the body is not said to be JSON; send the header {header} (curl: -H '{header}')"
        )
    if error["type"] == "json_invalid":
        return Problem(422, f"the body is not JSON ({error['ctx']['error']}); send a JSON object")
    if error["type"] == "missing":
        return Problem(422, f"{named} is missing; send it", field)
    if error["type"] == "extra_forbidden":
        return Problem(422, f"there is no field {shown(named)}; leave it out", field)
    rule = rule_of(error)
    return Problem(422, f"{named} is {shown(error.get('input'))}; give {rule}", field, rule)


KINDS = {
    "string_type": "a text",
    "int_type": "a number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a JSON object",
    "model_type": "a JSON object",
    "model_attributes_type": "a JSON object",
}
"""What pydantic calls a value of another type -> what the field takes."""


def rule_of(error: Any) -> str:
    """What a field takes, in words."""
    kind, told = error["type"], error.get("ctx") or {}
    unit = "characters" if kind.startswith("string") else "items"
    for bound, word in (("min_length", "at least"), ("max_length", "at most")):
        if bound in told:
            return f"{word} {told[bound]:,} {unit}"
    if kind == "literal_error":
        return f"one of {told['expected']}"
    return KINDS.get(kind, error["msg"][:1].lower() + error["msg"][1:])


class OutOfRange(Refused):
    """A value that is not what a field takes."""

    def __init__(self, range: str) -> None:
        super().__init__(f"give {range}")
        self.range = range


def install(app: FastAPI) -> None:
    """Gives the app one shape of error."""

    @app.exception_handler(Problem)
    async def problem(_: Request, error: Problem) -> Response:
        return error.response()

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return of_refused(error).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return of_validation(error.errors()).response()

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        what = f"{request.method} {request.url.path}: {error.detail}; see /openapi.json for what there is"
        response = Problem(error.status_code, what).response()
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(FileNotFoundError)
    async def gone(_: Request, error: FileNotFoundError) -> Response:
        what = f"{Path(str(error.filename)).name} was deleted while it was read; ask again"
        return Problem(404, what).response()

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        what = f"the server failed with {type(error).__name__}, which is a bug; please report the request"
        return Problem(500, what).response()

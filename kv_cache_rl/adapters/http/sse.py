"""Server-sent events: written, numbered, and taken up again after `Last-Event-ID`."""

from collections.abc import AsyncGenerator, Callable

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from kv_cache_rl.adapters.http.errors import Problem
from kv_cache_rl.files import json_text

MOST_EVENTS = 2**53
MOST_DIGITS = 20
BEAT_S = 15.0
"""A stream without news says that it lives after so many seconds."""
BEAT = ": still here\n\n"
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
"""A proxy that kept events back would make a live page a late one."""


def event(kind: str, data: object, number: int | None = None) -> str:
    """One event.

    >>> event("end", {"score": 1}, 3)
    'id: 3\\nevent: end\\ndata: {"score": 1}\\n\\n'
    """
    named = "" if number is None else f"id: {number}\n"
    return f"{named}event: {kind}\ndata: {json_text(data, indent=None)}\n\n"


def last_event(request: Request) -> int:
    """The number of the last event that the client has; -1 for a stream from its beginning.

    Raises:
        Problem: the header is no such number.
    """
    said = request.headers.get("last-event-id", "").strip()
    if not said:
        return -1
    if not (said.isascii() and said.isdigit() and len(said) <= MOST_DIGITS and int(said) < MOST_EVENTS):
        raise Problem(
            422, "Last-Event-ID is no number; give the id of an event of this stream", "Last-Event-ID"
        )
    return int(said)


class Stream(StreamingResponse):
    """The answer that sends events as they come.

    Args:
        ended: called once it is over, also where the client was gone before the first event.
    """

    def __init__(self, events: AsyncGenerator[str], ended: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=HEADERS)
        self.events, self.ended = events, ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.ended()
            await self.events.aclose()

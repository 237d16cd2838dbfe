"""Server-sent events: written, numbered, and taken up again after `Last-Event-ID`."""

from collections.abc import AsyncIterator

from fastapi import Request
from fastapi.responses import StreamingResponse

from kv_cache_rl.adapters.http.errors import Problem
from kv_cache_rl.files import json_text

MOST_EVENTS = 2**53
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
    if not (said.isascii() and said.isdigit() and int(said[:20]) < MOST_EVENTS):
        raise Problem(
            422, "Last-Event-ID is no number; give the id of an event of this stream", "Last-Event-ID"
        )
    return int(said)


def stream(events: AsyncIterator[str]) -> StreamingResponse:
    """The answer that sends events as they come."""
    return StreamingResponse(events, media_type="text/event-stream", headers=HEADERS)

"""The door of an OpenEnv server: what OpenEnv would answer with a closed socket, or without a remedy, is
answered with a sentence; a socket that says nothing gives its place back.

    connect --> message --fault?--> answered here, the session goes on
                        --whole---> OpenEnv --error--> the same, as a sentence with its remedy
            --nothing for idle_s--> told so, closed
"""

import asyncio
import json
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kv_cache_rl.adapters.http.errors import of_validation
from kv_cache_rl.adapters.http.guard import Guard
from kv_cache_rl.adapters.http.limits import Limits
from kv_cache_rl.adapters.wire import MAX_BRACKETS
from kv_cache_rl.core.errors import unknown
from kv_cache_rl.files import NotJson, json_value

MESSAGE_BYTES = 64 * 1024
"""A message; an action takes about a hundred bytes."""
TYPES = ("reset", "step", "state", "close", "mcp")
EXAMPLE = '{"type": "reset", "data": {}}'
REMEDIES = {
    "CAPACITY_REACHED": "close one of yours, or connect again later",
    "SESSION_ERROR": "connect again, without session_id for a session of your own",
}
"""Code of an error → what OpenEnv's own words leave out."""


class Gate(Guard):
    """An ASGI app before an OpenEnv server. It answers to every name, as containers and Spaces ask for.

    Args:
        idle_s: seconds without a message after which a session is closed.
    """

    def __init__(self, app: ASGIApp, limits: Limits, idle_s: float) -> None:
        super().__init__(app, limits)
        self.idle_s = idle_s
        self.headers = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and scope["path"] == "/ws":
            socket = Socket(receive, send, self.idle_s, self.limits.send_seconds)
            await self.app(scope, socket.receive, socket.send)
        elif scope["type"] == "websocket":
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def check_name(self, headers: dict[bytes, str], path: str) -> None:
        """Refuses none."""


class Socket:
    """One client's messages, looked at on their way."""

    def __init__(self, receive: Receive, send: Send, idle_s: float, send_s: float) -> None:
        self.read, self.write, self.idle_s, self.send_s = receive, send, idle_s, send_s
        self.closed = False

    async def receive(self) -> Message:
        """The next message that OpenEnv can read, or the end."""
        while not self.closed:
            try:
                async with asyncio.timeout(self.idle_s):
                    message = await self.read()
            except TimeoutError:
                what = (
                    f"no message came for {self.idle_s:g} s, so this session is closed and its place is free"
                )
                await self.send(error("SESSION_ERROR", f"{what}; connect again and send a reset"))
                await self.send({"type": "websocket.close", "code": 1000})
                break
            found = fault(message) if message["type"] == "websocket.receive" else None
            if found is None:
                return message
            await self.send(error(*found))
        self.closed = True
        return {"type": "websocket.disconnect", "code": 1001}

    async def send(self, message: Message) -> None:
        """Sends a message, OpenEnv's own errors as sentences; to a client that does not read, no more."""
        if self.closed:
            return
        text = message.get("text") or ""
        if text.startswith('{"type":"error"'):
            message = said(json.loads(text)["data"])
        try:
            async with asyncio.timeout(self.send_s):
                await self.write(message)
        except TimeoutError:
            self.closed = True


def error(code: str, text: str, **more: Any) -> Message:
    """An error as OpenEnv writes one."""
    told = {"type": "error", "data": {"message": text, "code": code, **more}}
    return {"type": "websocket.send", "text": json.dumps(told)}


def fault(message: Message) -> tuple[str, str] | None:
    """Code and sentence for a message that OpenEnv would end the session for, or answer without a remedy."""
    text = message.get("text")
    if text is None:
        return "INVALID_JSON", f"the message is binary; send JSON as a text, such as {EXAMPLE}"
    size = len(text.encode())
    if size > MESSAGE_BYTES:
        return (
            "VALIDATION_ERROR",
            f"the message has {size:,} bytes, the limit is {MESSAGE_BYTES:,}; send less",
        )
    brackets = text.count("[") + text.count("{")
    if brackets > MAX_BRACKETS:
        return "VALIDATION_ERROR", f"the message has {brackets:,} brackets; send at most {MAX_BRACKETS}"
    try:
        value = json_value(text)
    except NotJson as wrong:
        return "INVALID_JSON", f"the message cannot be read: {wrong}; send one such as {EXAMPLE}"
    if not isinstance(value, dict):
        return "VALIDATION_ERROR", f"the message is no JSON object; send one such as {EXAMPLE}"
    kind = value.get("type", "")
    if kind not in TYPES:
        return "UNKNOWN_TYPE", unknown("type of message", kind, TYPES)
    return None


def said(told: dict[str, Any]) -> Message:
    """OpenEnv's error with a sentence that names what is wrong, and what to do."""
    code, text = told["code"], told["message"]
    if told.get("errors"):
        text = f"{of_validation(told.pop('errors'))}; GET /schema has the form"
    elif code in REMEDIES:
        text = f"{text.rstrip('.')}; {REMEDIES[code]}"
    return error(
        code, text, **{name: value for name, value in told.items() if name not in ("code", "message")}
    )

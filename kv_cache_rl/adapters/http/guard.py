"""The door: refuses foreign hosts and origins, bodies that are too large or too slow, and readers that do not
read; writes the security headers on every answer.
"""

import asyncio
import math
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kv_cache_rl.adapters.http.errors import Problem
from kv_cache_rl.adapters.http.limits import Limits
from kv_cache_rl.adapters.requests import LOOPBACK, host_name

UPLOADS = "/api/hierarchy/traces"
"""The one path whose bodies may be as large as a trace."""
HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
"""Scripts, styles and requests of the page come from and go to this server alone."""


FOREIGN_SITES = ("cross-site", "same-site")
"""What a browser says of a request that a page of another origin made: an image's has no Origin."""


class Guard:
    """An ASGI app before another.

    Args:
        hosts: names beside those of loopback under which the server may be asked. A page of another name that
            points here (DNS rebinding), and a page of another origin, are refused.
        answered: called with the status of each answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        hosts: tuple[str, ...] = (),
        answered: Callable[[int], None] = lambda status: None,
    ) -> None:
        self.app, self.limits, self.answered = app, limits, answered
        self.hosts = {*LOOPBACK, *(name.lower() for name in hosts)}
        policy = HEADERS["content-security-policy"]
        # A public page may be shown inside another, as a Space is; one on this machine may not.
        policy += "" if self.hosts - {*LOOPBACK} else "; frame-ancestors 'none'"
        told = HEADERS | {"content-security-policy": policy}
        self.headers = [(name.encode(), value.encode()) for name, value in told.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        wire = Wire(self, receive, send, self.allowed(scope))
        try:
            self.check(scope, wire.most)
        except Problem as problem:
            await problem.response()(scope, receive, wire.send)
            return
        try:
            await self.app(scope, wire.receive, wire.send)
        except Exception:
            if not wire.given_up:
                raise

    def allowed(self, scope: Scope) -> int:
        """Bytes that the body of a request may have."""
        return self.limits.trace_bytes if scope["path"] == UPLOADS else self.limits.body_bytes

    def check(self, scope: Scope, most: int) -> None:
        """Raises Problem for a foreign host or origin, and for a body that is announced as too large."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        self.check_name(headers, scope["path"])
        announced = headers.get(b"content-length", "0")
        if not (announced.isascii() and announced.isdigit() and len(announced) < 19):
            raise Problem(400, "content-length is no number; send the length of the body in bytes")
        if int(announced) > most:
            raise too_large(int(announced), most)

    def check_name(self, headers: dict[bytes, str], path: str) -> None:
        """Raises Problem for a foreign host or origin."""
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        if host_name(host) not in self.hosts:
            what = f"this server does not answer as {host_name(host)[:80]!r}"
            raise Problem(403, f"{what}; ask for 127.0.0.1, or start it with --allow-host NAME", "Host")
        if origin is not None and origin.lower().partition("://")[2] != host.lower():
            what = f"a page of {origin[:80]!r} may not use this server"
            raise Problem(403, f"{what}; open the page that it serves itself", "Origin")
        site = headers.get(b"sec-fetch-site", "").lower()
        if path.startswith("/api/") and site in FOREIGN_SITES:
            what = f"a page of another origin ({site}) may not use this server"
            raise Problem(403, f"{what}; open the page that it serves itself", "Sec-Fetch-Site")


class Wire:
    """One request's messages, counted and timed."""

    def __init__(self, guard: Guard, receive: Receive, send: Send, most: int) -> None:
        self.guard, self.read, self.write, self.most = guard, receive, send, most
        self.seen, self.whole, self.given_up = 0, False, False
        self.clock = asyncio.get_running_loop().time
        self.until = self.clock() + guard.limits.body_seconds
        self.last = math.inf
        """When an answer that is no stream has to be read."""

    async def receive(self) -> Message:
        """The next message. Raises Problem where the body is too large or comes too slowly."""
        if self.whole:
            return await self.read()
        try:
            async with asyncio.timeout_at(self.until):
                message = await self.read()
        except TimeoutError:
            what = f"{self.seen:,} bytes came in {self.guard.limits.body_seconds:g} s"
            raise Problem(408, f"{what}, and the body is not whole; send it again at once") from None
        if message["type"] == "http.request":
            self.seen += len(message.get("body", b""))
            self.whole = not message.get("more_body", False)
            if self.seen > self.most:
                raise too_large(self.seen, self.most)
        return message

    async def send(self, message: Message) -> None:
        """Sends a message. Raises TimeoutError where the client does not read."""
        if message["type"] == "http.response.start":
            self.guard.answered(message["status"])
            headers = list(message.get("headers", ()))
            message = {**message, "headers": headers + self.guard.headers}
            if not dict(headers).get(b"content-type", b"").startswith(b"text/event-stream"):
                self.last = self.clock() + self.guard.limits.answer_seconds
        try:
            async with asyncio.timeout_at(min(self.clock() + self.guard.limits.send_seconds, self.last)):
                await self.write(message)
        except TimeoutError:
            self.given_up = True
            raise


def too_large(size: int, most: int) -> Problem:
    """What a body of too many bytes is told."""
    return Problem(413, f"the body has {size:,} bytes or more, the limit is {most:,}; send less")

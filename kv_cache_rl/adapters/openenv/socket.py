"""A client of an OpenEnv server that sends any message, whole or broken, and gives every answer's bytes."""

import json
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any

from kv_cache_rl.core.errors import Refused
from kv_cache_rl.extras import need

need("the grader of OpenEnv servers", "websockets")

from websockets.exceptions import ConnectionClosed, InvalidURI, WebSocketException
from websockets.sync.client import ClientConnection, connect

PATIENCE_S = 60.0
"""How long an answer may take."""


class Told(Refused):
    """What a server answered as an error."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Unreachable(Refused):
    """No OpenEnv server answers at an address."""


def socket_url(url: str) -> str:
    """Where a server's sessions are. Raises Unreachable for what is no address."""
    scheme, sign, rest = url.rstrip("/").partition("://")
    if not sign or scheme not in ("http", "https") or not rest:
        raise Unreachable(f"{url[:80]!r} is no address of a server; give one such as http://127.0.0.1:8000")
    return f"{scheme.replace('http', 'ws')}://{rest}/ws"


class Session:
    """One session of a server, as a context manager.

    Raises:
        Unreachable: nothing there speaks WebSocket.
    """

    def __init__(self, url: str) -> None:
        self._open = ExitStack()
        try:
            self.socket: ClientConnection = self._open.enter_context(
                connect(socket_url(url), open_timeout=PATIENCE_S, compression=None, max_size=None, proxy=None)
            )
        except (OSError, WebSocketException, InvalidURI) as wrong:
            raise Unreachable(
                f"no OpenEnv server answers at {url[:80]} ({type(wrong).__name__}: {wrong}); start one, "
                "or give the address of one that runs"
            ) from None

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, wrong: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def send(self, message: str | bytes) -> None:
        """Sends a message as it is. Where the session is closed, the next answer says so."""
        with suppress(ConnectionClosed):
            self.socket.send(message)

    def put(self, kind: str, data: dict[str, Any] | None = None) -> None:
        """Sends one message of OpenEnv's."""
        self.send(json.dumps({"type": kind} if data is None else {"type": kind, "data": data}))

    def answer(self) -> str:
        """The next answer. Raises Told where the session was closed, or nothing came."""
        try:
            return str(self.socket.recv(PATIENCE_S))
        except ConnectionClosed as wrong:
            raise Told("CLOSED", f"the server closed the session ({wrong})") from None
        except TimeoutError:
            raise Told("SILENT", f"no answer came in {PATIENCE_S:g} s") from None

    def ask(self, kind: str, data: dict[str, Any] | None = None) -> str:
        """The answer to one message."""
        self.put(kind, data)
        return self.answer()

    def reset(self, **data: Any) -> dict[str, Any]:
        """A reset's observation, reward, done and metadata. Raises Told for an error."""
        return read(self.ask("reset", data))

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        """A step's observation, reward, done and metadata. Raises Told for an error."""
        return read(self.ask("step", action))

    def state(self) -> dict[str, Any]:
        """The state. Raises Told for an error."""
        return read(self.ask("state"))


def read(text: str) -> dict[str, Any]:
    """What an answer holds. Raises Told for an error."""
    found = json.loads(text)
    if found["type"] == "error":
        raise Told(found["data"]["code"], found["data"]["message"])
    return found["data"]

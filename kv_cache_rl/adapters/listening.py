"""The socket that a server listens on."""

import socket

from kv_cache_rl.core.errors import Refused

HOST = "127.0.0.1"


class EndpointError(Refused):
    """The server cannot start; the text says what to change."""


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

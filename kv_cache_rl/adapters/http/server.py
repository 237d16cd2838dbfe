"""The server as a process: listens, answers until it is interrupted, and ends what it streams."""

import os
import re
import socket
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import uvicorn

from kv_cache_rl.adapters.http import episodes, serving
from kv_cache_rl.adapters.http.app import create_app
from kv_cache_rl.adapters.http.limits import Limits
from kv_cache_rl.adapters.listening import EndpointError, listen
from kv_cache_rl.adapters.requests import LOOPBACK, host_name
from kv_cache_rl.sim.eviction import load_scenarios

PORT = 7860
GOODBYE_S = 3
"""How long answers that are being sent may take once the server is to end."""
KEPT_S = 75
"""How long an idle connection stays open: longer than at clients, which else may use it as it closes."""
UNREAD_MS = 60_000
"""A connection whose client acknowledges nothing for so long is closed by the system."""


def check_hosts(host: str, allowed: tuple[str, ...]) -> None:
    """Raises EndpointError for a server that others can reach under no name that it answers to, and for a
    name that no request can have.
    """
    if host not in LOOPBACK and not allowed:
        raise EndpointError(
            f"--host {host} lets other machines in, and the server refuses every name that it does not know; "
            "name it as they do with --allow-host NAME"
        )

    for name in allowed:
        if not is_host(name):
            bare = host_name(name.rpartition("://")[2].partition("/")[0])
            remedy = f"--allow-host {bare}" if is_host(bare) else "a name such as lab.example.org"
            raise EndpointError(
                f"--allow-host {name} is no name of a host, so no request would match it; give {remedy}, "
                "without scheme, port or path"
            )


def is_host(name: str) -> bool:
    """Whether a Host header can hold this name before its port."""
    with suppress(ValueError):
        return bool(ip_address(name))
    return re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", name) is not None


def check_runs(folder: Path) -> None:
    """Raises EndpointError for what is there and is no folder, or may not be read; one that is not there yet
    may come.
    """
    try:
        there, is_folder = folder.exists(), folder.is_dir()
    except OSError as error:
        raise EndpointError(f"--runs {folder}: {error.strerror}; give a folder that you may read") from None
    if there and not is_folder:
        raise EndpointError(f"--runs {folder} is no folder; give the folder that holds the run folders")
    if there and not os.access(folder, os.R_OK | os.X_OK):
        raise EndpointError(f"--runs {folder} may not be read; chmod u+rx {folder}, or give another folder")


def url_of(listener: socket.socket) -> str:
    """Where the server answers."""
    host, port = listener.getsockname()[:2]
    return f"http://{host}:{port}"


def opened(port: int, host: str) -> socket.socket:
    """A listening socket. Raises EndpointError where the port is not free."""
    listener = listen(port, host)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # those that are accepted have it too
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS)
    return listener


def compiled() -> None:
    """Has the simulators compiled before the first request."""
    serving.compiled()
    scenario = load_scenarios(num_examples=1)[0]
    episodes.told(scenario, episodes.by_policy("lru", scenario), with_dialogue=False)


class Server(uvicorn.Server):
    """A server over the simulators.

    Args:
        runs: the folder whose run folders it shows.
        hosts: names beside those of loopback under which it may be asked.
    """

    def __init__(
        self,
        limits: Limits = Limits(),  # noqa: B008
        runs: Path | None = None,
        hosts: tuple[str, ...] = (),
    ) -> None:
        app = create_app(limits, runs, hosts, closing=lambda: self.should_exit)
        config = uvicorn.Config(
            app,
            log_level="error",  # what is no HTTP, or asks for websockets, is the client's business
            access_log=False,
            server_header=False,
            ws="none",
            limit_concurrency=limits.connections,
            timeout_keep_alive=KEPT_S,
            timeout_graceful_shutdown=GOODBYE_S,
        )
        super().__init__(config)

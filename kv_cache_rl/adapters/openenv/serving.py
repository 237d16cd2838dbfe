"""An OpenEnv package's app as a server: its errors, its door, its command."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import ValidationError

from kv_cache_rl.adapters.http import errors
from kv_cache_rl.adapters.http.limits import Limits
from kv_cache_rl.adapters.http.server import compiled, opened, url_of
from kv_cache_rl.adapters.openenv.gate import Gate
from kv_cache_rl.core.errors import Refused

SESSIONS, IDLE_S = "KV_CACHE_RL_SESSIONS", "KV_CACHE_RL_IDLE_S"
"""Variables of the environment: sessions at a time, and seconds after which a silent one is closed."""
DEFAULTS = {SESSIONS: 64, IDLE_S: 600}
MOST = 86_400
PORT = 8000
LONGEST_MESSAGE = 2**20
"""Bytes of a message beyond which the socket is closed at once; from 64 KiB on it is refused."""


def setting(name: str) -> int:
    """A variable of the environment as a number, or its default. Raises Refused for anything else."""
    text = os.environ.get(name, "") or str(DEFAULTS[name])
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MOST):
        raise Refused(f"{name} is {text[:40]!r}; give a whole number from 1 to {MOST:,}, or unset it")
    return int(text)


def app_of(package: Path, create_app: Callable[..., FastAPI], concurrency: Callable[..., Any]) -> FastAPI:
    """The app that OpenEnv makes of a package, with the errors and the limits of this project's servers.

    The simulators are compiled before it answers: the first time on a machine takes a minute.

    Args:
        package: the folder, whose README OpenEnv's web interface shows.
        create_app: OpenEnv's, with the package's classes. Nothing here imports OpenEnv.
        concurrency: OpenEnv's `ConcurrencyConfig`.
    """
    os.environ.setdefault("ENV_README_PATH", str(package / "README.md"))
    idle_s = setting(IDLE_S)
    limits = concurrency(max_concurrent_envs=setting(SESSIONS), session_timeout=idle_s)
    app = create_app(concurrency_config=limits)
    compiled()
    errors.install(app)

    @app.exception_handler(ValidationError)
    async def invalid(_: Request, error: ValidationError) -> Response:
        return errors.of_validation(error.errors()).response()

    app.add_middleware(Gate, limits=Limits(), idle_s=float(idle_s))
    return app


def serve(app: FastAPI, about: str) -> None:
    """The `server` command: answers until it is interrupted."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=int, default=PORT, help="0 takes a free one")
    given = parser.parse_args()
    try:
        listener = opened(given.port, given.host)
    except Refused as error:
        sys.exit(f"error: {error}")
    print(url_of(listener), flush=True)
    config = uvicorn.Config(app, log_level="warning", access_log=False, ws_max_size=LONGEST_MESSAGE)
    uvicorn.Server(config).run(sockets=[listener])

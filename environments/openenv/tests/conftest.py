"""Both servers, each started once, with the web interface that a Space has."""

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from kv_cache_rl.adapters.openenv.checks import Server
from kv_cache_rl.adapters.openenv.plays import WORLDS

SESSIONS, IDLE_S = 64, 10


@contextmanager
def started(name: str, **variables: str) -> Generator[str]:
    """The address of a server that lives as long as the block."""
    environment = os.environ | {"ENABLE_WEB_INTERFACE": "true"} | variables
    command = [sys.executable, "-m", f"{name}.server.app", "--port", "0"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert child.stdout is not None
    try:
        yield child.stdout.readline().strip()
    finally:
        child.terminate()
        child.wait(timeout=60)
        child.stdout.close()


@pytest.fixture(scope="session", params=list(WORLDS))
def server(request: pytest.FixtureRequest) -> Generator[Server]:
    """Each server in turn, as the grader knows it."""
    variables = {"KV_CACHE_RL_SESSIONS": str(SESSIONS), "KV_CACHE_RL_IDLE_S": str(IDLE_S)}
    with started(request.param, **variables) as url:
        yield Server(url, request.param, WORLDS[request.param], SESSIONS, IDLE_S)

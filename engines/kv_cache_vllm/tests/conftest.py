"""A real engine on the CPU: the command line in this process."""

import signal
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

from kv_cache_rl.cli import app

# A test run that a shell started in the background inherits an ignored SIGINT, and so do its children.
signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Said:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def kv(tmp_path, monkeypatch):
    """Runs a command in an empty folder, in this process."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Said(result.exit_code, result.stdout, result.stderr)

    return run

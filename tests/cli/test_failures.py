"""How commands end that were told to stop."""

import ctypes
import os
import signal
import sys

import pytest
import typer
from typer.testing import CliRunner

from kv_cache_rl.cli.exits import BAD_INPUT, TERMINATED
from kv_cache_rl.cli.failures import CommandGroup


def group(command) -> typer.Typer:
    app = typer.Typer(cls=CommandGroup)
    app.command("go")(command)
    app.command("stay")(lambda: None)
    return app


def cut_off(signalled: bool) -> None:
    """Stands for a compiler that loses its interrupt and fails afterwards."""
    try:
        if signalled:
            os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt:
        pass
    raise RuntimeError("no compiled object yet")


def test_an_error_that_follows_sigterm_ends_as_an_interrupt():
    done = CliRunner().invoke(group(lambda: cut_off(True)), ["go"])
    assert (done.exit_code, done.stderr) == (TERMINATED, "interrupted\n")


def test_an_interrupt_that_a_callback_drops_is_said_in_one_line(capfd):
    """As ctypes does for the callbacks of a compiler: what they raise is lost, with a traceback."""

    def compiles() -> None:
        @ctypes.CFUNCTYPE(None)
        def callback() -> None:
            os.kill(os.getpid(), signal.SIGTERM)

        callback()
        raise RuntimeError("no compiled object yet")

    assert CliRunner().invoke(group(compiles), ["go"]).exit_code == TERMINATED
    assert "Traceback" not in capfd.readouterr().err


def test_another_error_that_a_callback_drops_keeps_its_traceback(monkeypatch):
    said = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: said.append(lost.exc_type))

    def fails() -> None:
        @ctypes.CFUNCTYPE(None)
        def callback() -> None:
            raise ValueError

        callback()

    assert CliRunner().invoke(group(fails), ["go"]).exit_code == 0 and said == [ValueError]


def test_an_error_without_a_signal_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="no compiled object"):
        CliRunner().invoke(group(lambda: cut_off(False)), ["go"], catch_exceptions=False)


def test_what_no_memory_holds_ends_in_a_line():
    done = CliRunner().invoke(group(lambda: bytearray(2**62)), ["go"])
    assert done.exit_code == BAD_INPUT and done.stderr.startswith("error: the memory of this machine does")


def test_a_signal_that_a_command_outlives_leaves_its_exit_code():
    def outlives() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise typer.Exit(3) from None

    assert CliRunner().invoke(group(outlives), ["go"]).exit_code == 3

"""What the command line does with bad input: exit code 2, and a line on stderr that says what, where and the
remedy.
"""

import signal
import sys
import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from kv_cache_rl.cli.exits import BAD_INPUT, INTERRUPTED, TERMINATED
from kv_cache_rl.core.errors import Refused, unknown
from kv_cache_rl.files import NotAFile


class BadInput(Refused):
    """The user asked for something that cannot be done; the message says what to do instead."""


class Interrupted(Exception):
    """Ctrl-C; the message says what is saved and how to go on."""


def as_sentence(error: Exception) -> str:
    """The error's message; for the operating system's errors also the file and what to try."""
    if isinstance(error, FileNotFoundError | NotADirectoryError | FileExistsError):
        path = Path(str(error.filename))
        if lacking := no_folder(path if isinstance(error, FileExistsError) else path.parent):
            return f"{path}: {lacking}"
    if isinstance(error, FileNotFoundError):
        return f"{error.filename}: there is no such file; check the path"
    if isinstance(error, PermissionError):
        return (
            f"{error.filename}: no permission; make it accessible to you (chmod u+rw), or give another path"
        )
    if isinstance(error, IsADirectoryError):
        return f"{error.filename}: is a folder; give a file"
    if isinstance(error, NotAFile):
        return f"{error.filename}: {error.strerror} (a pipe, a socket or a device); give the name of a file"
    if isinstance(error, OSError):
        where, what = error.filename or "the system", error.strerror or error
        return f"{where}: {what}; check the path, the permissions and the space left"
    return str(error)


def no_folder(folder: Path) -> str:
    """Why this is no folder, and what to do; empty where it is one."""
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            return f"{place} is a file, not a folder; give another path"
    return "" if folder.is_dir() else f"there is no folder {folder}; make it, or give another path"


class CommandGroup(TyperGroup):
    """A group that turns refused inputs and unusable files into one line, and SIGTERM into an interrupt.

    Any other error is a bug and keeps its traceback.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of the help: groups first."""
        return sorted(
            super().list_commands(ctx), key=lambda name: not isinstance(self.commands[name], TyperGroup)
        )

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuses an empty word: as a path it would mean the folder one stands in."""
        if "" in args:
            before = args[args.index("") - 1] if args.index("") else self.name
            ctx.fail(f"what follows {before} is empty (a shell variable that is not set?); give it a value")
        return super().parse_args(ctx, args)

    def make_context(self, *given: Any, **more: Any) -> Any:
        with ending_in_a_line():
            return super().make_context(*given, **more)

    def invoke(self, ctx: Any) -> Any:
        with ending_in_a_line():
            return super().invoke(ctx)


@contextmanager
def ending_in_a_line() -> Generator[None]:
    """Turns what ends a command early into its line and its exit code, as long as the block lasts."""
    signals: list[int] = []
    try:
        with terminated_like_an_interrupt(signals), lost_interrupts_unsaid():
            yield
    except (Interrupted, KeyboardInterrupt) as stop:
        typer.echo(f"interrupted{f': {stop}' if str(stop) else ''}", err=True)
        raise typer.Exit(TERMINATED if signals else INTERRUPTED) from None
    except BrokenPipeError:  # the reader, such as head, has seen enough: click ends quietly
        raise
    except (Refused, OSError) as error:
        typer.echo(f"error: {as_sentence(error)}", err=True)
        raise typer.Exit(BAD_INPUT) from None
    except MemoryError as error:
        typer.echo(
            f"error: the memory of this machine does not hold it ({error or 'no more was left'}); "
            "ask for less, of a trace for example with --limit N",
            err=True,
        )
        raise typer.Exit(BAD_INPUT) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception:
        if not signals:
            raise
        # A compiler that was cut off in the middle ends in an error of its own.
        typer.echo("interrupted", err=True)
        raise typer.Exit(TERMINATED) from None


@contextmanager
def lost_interrupts_unsaid() -> Generator[None]:
    """Says nothing of an interrupt that came inside a callback, such as a compiler's: Python drops it there
    with a traceback, and the command ends in a line of its own.
    """
    before = sys.unraisablehook

    def hook(lost: "sys.UnraisableHookArgs") -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            before(lost)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextmanager
def terminated_like_an_interrupt(signals: list[int]) -> Generator[None]:
    """SIGTERM does what Ctrl-C does, as long as the block lasts, and is added to `signals`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: object) -> None:
        signals.append(number)
        if callable(signal.getsignal(signal.SIGINT)):
            signal.raise_signal(signal.SIGINT)
        else:  # ignored, as in a background process
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def choose(kind: str, name: str, known: Iterable[str]) -> str:
    """The name itself where it is known. Raises BadInput with the nearest, and all known names if few."""
    names = list(known)
    if name in names:
        return name
    raise BadInput(unknown(kind, name, names))

"""What commands show while they work and when they are done: a spinner, a bar, text, JSON."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from kv_cache_rl.files import json_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

MIN_WIDTH = 112
"""What the results table needs: a narrower terminal wraps its lines rather than losing numbers."""


def console(stderr: bool = False) -> "Console":
    """A terminal to print to; tables keep their width where the output is a file.

    Text is printed as it is: names that users give hold brackets and colons. What has a style is `styled`.
    """
    from rich.console import Console

    if stderr:
        return Console(stderr=True, highlight=False, markup=False, emoji=False)
    width = max(Console().width, MIN_WIDTH) if is_terminal(sys.stdout) else 140
    return Console(width=width, highlight=False, markup=False, emoji=False)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is shown on a screen; one that was closed before the start (`>&-`) is None."""
    return stream is not None and stream.isatty()


def styled(*parts: "str | tuple[str, str] | Text", style: str = "") -> "Text":
    """The parts as one text, each as it is or with a style of its own.

    >>> styled(("failed", "red"), " [a]").plain
    'failed [a]'
    """
    from rich.text import Text

    return Text.assemble(*parts, style=style)


def print_json(value: Any) -> None:
    """One JSON object on stdout, null in place of NaN and infinity."""
    if sys.stdout is not None:
        sys.stdout.write(json_text(value, ascii_only=False) + "\n")
        sys.stdout.flush()


def track(items: Sequence, what: str, quiet: bool):
    """The items one by one, with a progress bar on stderr."""
    from rich.progress import track as rich_track

    hidden = quiet or not is_terminal(sys.stderr)
    return rich_track(items, description=what, console=console(stderr=True), disable=hidden, transient=True)


@contextmanager
def waiting(what: str, quiet: bool) -> Generator[None]:
    """A spinner on stderr while something takes its time."""
    err = console(stderr=True)
    if quiet or not err.is_terminal:
        yield
        return
    with err.status(styled(what)):
        yield


class Bar:
    """A progress bar on stderr, called with (done, total).

    It has no thread, so that workers can be forked beside it.
    """

    def __init__(self, what: str, quiet: bool) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        err = console(stderr=True)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self.progress = Progress(
            *columns, console=err, auto_refresh=False, transient=True, disable=quiet or not err.is_terminal
        )
        self.task, self.done, self.total = self.progress.add_task(what, total=None), 0, 0
        self._interrupted = False
        self._before: Any = None

    def __enter__(self) -> "Bar":
        self.progress.start()
        mine = threading.current_thread() is threading.main_thread()
        if mine and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        self.progress.stop()

    def _interrupt(self, *_: object) -> None:
        self._interrupted = True
        raise KeyboardInterrupt

    def __call__(self, done: int, total: int) -> None:
        """Shows how far it is. Raises KeyboardInterrupt again where one came and was lost, as Python drops
        what is raised inside a callback, such as a compiler's."""
        if self._interrupted:
            self._interrupted = False  # what is saved on the way out is told as well
            raise KeyboardInterrupt
        self.done, self.total = done, total
        self.progress.update(self.task, completed=done, total=total, refresh=True)


class Board:
    """A table on stderr that is drawn anew while work goes on, at most four times a second."""

    def __init__(self, quiet: bool) -> None:
        from rich.live import Live

        err = console(stderr=True)
        hidden = quiet or not err.is_terminal
        self.live = None if hidden else Live(console=err, auto_refresh=False, transient=True)
        self._drawn = 0.0

    def __enter__(self) -> "Board":
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def __call__(self, draw: Callable[[], "Table"]) -> None:
        """Shows what `draw` gives, which is not asked where the last table is fresh or none is shown."""
        if self.live is not None and time.monotonic() - self._drawn >= 0.25:
            self._drawn = time.monotonic()
            self.live.update(draw(), refresh=True)

    def say(self, line: str) -> None:
        """Prints a line, above the table where one is shown."""
        out = console(stderr=True) if self.live is None else self.live.console
        out.print(line, soft_wrap=True)


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction in per cent, a dash for None."""
    return "-" if value is None else f"{100 * value:.{digits}f} %"

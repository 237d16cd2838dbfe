"""What commands show while they work and when they are done: a spinner, a bar, a table."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from kv_cache_rl.cli.options import console

if TYPE_CHECKING:
    pass

Workers = Annotated[
    int | None, typer.Option(help="Processes; default: all cores. Results do not depend on it.", min=1)
]


def names_of(values: list[str] | None) -> list[str]:
    """What comma-separated, repeatable values name, each once."""
    return list(
        dict.fromkeys(name.strip() for value in values or [] for name in value.split(",") if name.strip())
    )


@contextmanager
def waiting(what: str, quiet: bool) -> Iterator[None]:
    """A spinner on stderr while something takes its time."""
    err = console(stderr=True)
    if quiet or not err.is_terminal:
        yield
        return
    with err.status(what):
        yield


class Bar:
    """A progress bar on stderr, called with (done, total).

    It has no thread, so that workers can be forked beside it.
    """

    def __init__(self, what: str, quiet: bool) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        err = console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(
            *columns, console=err, auto_refresh=False, transient=True, disable=quiet or not err.is_terminal
        )
        self.task, self.done, self.total = self.progress.add_task(what, total=None), 0, 0

    def __enter__(self) -> "Bar":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        self.progress.update(self.task, completed=done, total=total, refresh=True)


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction in per cent, a dash for None."""
    return "-" if value is None else f"{100 * value:.{digits}f} %"

"""A running evaluation: rollouts saved as they end, signs of life."""

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kv_cache_rl.amounts import counted
from kv_cache_rl.cli.terminal import console, is_terminal
from kv_cache_rl.files import naming, write_whole

if TYPE_CHECKING:
    from rich.progress import TaskID

LINE_EVERY_S = 30.0
"""A line of progress at most so often where stderr is no terminal."""
LONG_WAIT_S = 2.0
"""Waits below this are not worth a word."""


class Recorder:
    """Adds each rollout to results.jsonl as it ends, and moves the progress bar.

    Args:
        kept: of a run that goes on, (model, scenario) -> the line of each rollout that had ended well. Each
            stays in the file until it is told anew, so that an interrupt before then loses nothing.
    """

    def __init__(self, path: Path, advance: Callable[[], None], kept: Mapping[tuple[str, str], str]) -> None:
        self.path, self.advance, self.rows = path, advance, dict(kept)
        self._lock = threading.Lock()
        self._write()

    @property
    def count(self) -> int:
        """Rollouts that are saved."""
        return len(self.rows)

    def __call__(self, row: Mapping[str, Any]) -> None:
        with self._lock:
            key, line = (row["model"], row["scenario_id"]), json.dumps(row)
            before, self.rows[key] = self.rows.get(key), line
            if before is None:
                with naming(self.path), self.path.open("a") as lines:
                    lines.write(line + "\n")
            elif before != line:
                self._write()
        self.advance()

    def _write(self) -> None:
        write_whole(self.path, "".join(f"{line}\n" for line in self.rows.values()).encode())


class Live:
    """Progress of one model after another: rollouts done, model calls done, what is waited for.

    A bar on a terminal, a line now and then elsewhere, nothing where `quiet`. It is the `Watch` of the
    environment package.

    Args:
        total: rollouts of each model.
        quiet: say nothing while it runs.
        clock: seconds.
        finished: model -> rollouts that had ended well before; none in a run that begins."""

    def __init__(
        self,
        total: int,
        quiet: bool,
        clock: Callable[[], float] = time.monotonic,
        finished: Mapping[str, int] | None = None,
    ) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.total, self.clock, self.finished = total, clock, finished or {}
        self.bar = not quiet and is_terminal(sys.stderr)
        self.lines = not quiet and not self.bar
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            TimeElapsedColumn(),
            console=console(stderr=True),
            disable=not self.bar,
        )
        self.model, self.rollouts, self.calls, self.said = "", 0, 0, clock()
        self.task: TaskID | None = None

    def __enter__(self) -> "Live":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def begin(self, model: str) -> None:
        """From here on everything is about this model."""
        self.model, self.rollouts, self.calls = model, 0, 0
        self.task = self.progress.add_task(model, total=self.total, state="")

    def resumed(self, kept: int) -> None:
        """Says what of a run that goes on is played, and billed, anew."""
        lost = self.finished.get(self.model, 0) - kept
        why = f"; {lost} of those had ended well, but traces.jsonl does not hold them" if lost > 0 else ""
        state = f"{kept} of {counted(self.total, 'rollout')} kept, {self.total - kept} played now"
        typer.echo(f"{self.model}: {state}{why}", err=True)

    def advance(self) -> None:
        self.rollouts += 1
        if self.task is not None:
            self.progress.advance(self.task)

    def answered(self) -> None:
        self.calls += 1
        self.show("")

    def waiting(self, seconds: float, why: str) -> None:
        if seconds >= LONG_WAIT_S:
            self.show(f", waiting {seconds:.0f} s: {' '.join(why.split())[:60]}")

    def show(self, more: str) -> None:
        state = f"{self.calls:,} calls{more}"
        if self.task is not None:
            self.progress.update(self.task, state=state)
        if self.lines and self.clock() - self.said >= LINE_EVERY_S:
            self.said = self.clock()
            typer.echo(f"{self.model}: {self.rollouts} of {self.total} rollouts, {state}", err=True)

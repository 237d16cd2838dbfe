"""The one writer of a recording's folder."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from io import BufferedRandom
from pathlib import Path
from typing import Any

from kv_cache_rl.experiments.engine.folder import (
    CONFIG,
    EVENTS,
    FORMAT,
    REQUESTS,
    STEPS,
    VERSION,
    Config,
    Recorded,
    Step,
    lines_in,
    read_config,
    requests_in,
    step_of,
)
from kv_cache_rl.experiments.engine.plan import EngineError
from kv_cache_rl.files import holds, regular, write_json, write_whole


class Writer:
    """The one writer of a folder, which keeps what is there already.

    Raises:
        EngineError: another process writes there, or the folder holds another recording.
    """

    def __init__(self, folder: Path, config: Config, resume: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._last: tuple[int, ...] = ()
        self._files: dict[str, BufferedRandom] = {REQUESTS: open(regular(folder / REQUESTS), "a+b")}
        try:
            self._claim(config, resume)
        except BaseException:
            self.close()
            raise

    def _claim(self, config: Config, resume: bool) -> None:
        if not holds(self._files[REQUESTS].fileno()):
            raise EngineError(
                f"{self.folder}: another recorder writes there now; wait for it, or give another --out"
            )
        if (self.folder / CONFIG).exists():
            self._go_on(config, resume)
        elif [path for path in self.folder.iterdir() if path.name != REQUESTS]:
            raise EngineError(f"{self.folder} holds other files; give --out a new folder")
        else:
            write_json(self.folder / CONFIG, {"format": FORMAT, "version": VERSION} | asdict(config))
        self.finished = tuple(requests_in(self.folder))
        last = max((one.steps[1] for one in self.finished), default=-1)
        for name, keep in ((STEPS, last), (EVENTS, last)):
            _cut(self.folder / name, keep)
            self._files[name] = open(regular(self.folder / name), "a+b")
        self._whole(REQUESTS)

    def _go_on(self, config: Config, resume: bool) -> None:
        """Checks that what is there was begun with these settings."""
        before = asdict(read_config(self.folder))
        differ = [
            name
            for name, value in asdict(config).items()
            if name != "command" and json.loads(json.dumps(value)) != before[name]
        ]
        if not resume:
            raise EngineError(f"{self.folder} holds a recording; go on with --resume, or give another --out")
        if differ:
            name = differ[0]
            raise EngineError(
                f"{self.folder} was begun with {name} {before[name]}, not {getattr(config, name)}; give the "
                "same, or another --out"
            )

    def _whole(self, name: str) -> None:
        """Takes a line that was cut off from the end of a file."""
        file = self._files[name]
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)

    def request(self, one: Recorded) -> None:
        """Keeps a request that is over, after everything that led to it."""
        for name in (STEPS, EVENTS):
            self._files[name].flush()
        self._write(REQUESTS, asdict(one))
        self._files[REQUESTS].flush()

    def step(self, one: Step) -> None:
        """Keeps a step that changed something."""
        now = (one.running, one.waiting, one.free, one.preempted)
        if one.ops or now != self._last:
            self._write(STEPS, asdict(one))
        self._last = now

    def events(self, step: int, time_s: float, events: list[dict[str, Any]]) -> None:
        """Keeps the KV events of a step."""
        self._write(EVENTS, {"ts": time_s, "data_parallel_rank": 0, "step": step, "events": events})

    def _write(self, name: str, value: dict[str, Any]) -> None:
        self._files[name].write(json.dumps(value, allow_nan=False, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        """Everything is on disk; another may write."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _cut(path: Path, last: int) -> None:
    """Takes the lines of later steps, and one that was cut off, from a file."""
    kept = [json.dumps(one, separators=(",", ":")) for one in lines_in(path) if step_of(path, one) <= last]
    if path.exists():
        write_whole(path, "".join(f"{line}\n" for line in kept).encode())

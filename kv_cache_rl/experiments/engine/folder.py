"""The folder of a recording: how it was made, and what the engine did, as JSON Lines that only grow.

    config.json      engine, trace, pool and rules of the recording
    requests.jsonl   a request once it is over: its blocks, how many of them were found, generated tokens,
                     how often it was preempted, when it came, started and was over, its first and last step
    steps.jsonl      a step of the engine: requests that run and wait, free blocks, preemptions so far, and
                     what was done with blocks, in its order:
                     ["take", request, found or null, full blocks, blocks held]   ["free", request]
                     a step without a line is as the one before, and nothing was done
    events.jsonl     the KV events of a step as vLLM writes them, blocks named by their numbers in the trace

A request is there once its line is whole. What steps and events hold beyond the last such line belongs to
requests that were cut off.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from io import BufferedRandom
from pathlib import Path
from typing import Any

from kv_cache_rl.experiments.engine.plan import EngineError
from kv_cache_rl.files import NotJson, holds, json_value, lines_of, read_json, regular, write_json

FORMAT, VERSION = "kv-cache-rl engine run", 1
CONFIG, REQUESTS, STEPS, EVENTS = "config.json", "requests.jsonl", "steps.jsonl", "events.jsonl"
Run = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Config:
    """How a recording was made."""

    engine: str
    """Name and version."""
    trace: str
    source: dict[str, Any]
    """What identifies the trace."""
    command: str
    requests: int
    """Of the trace; as many lines has a recording that is complete."""
    blocks: int
    """Of the engine's pool."""
    block_tokens: int
    trace_block_tokens: int
    max_num_seqs: int
    token_budget: int
    """Tokens that a step computes at most."""
    at: str
    rate: float
    model: str
    seed: int
    lengthened: int
    working_set: int
    policy: str = "lru"

    @property
    def one_at_a_time(self) -> bool:
        """Whether a request is over before the next one starts."""
        return self.max_num_seqs == 1


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request that is over."""

    request: int
    time_s: float
    """In the trace."""
    sequence: int
    prompt: int
    generated: int
    blocks: tuple[Run, ...]
    """All blocks that prompt and answer fill, as runs (first, length)."""
    found: int
    """Leading blocks of the prompt that were there when it first started."""
    preempted: int
    arrived_s: float
    started_s: float
    done_s: float
    steps: tuple[int, int]
    """The first in which it was scheduled, and the one that ended it."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the engine."""

    step: int
    time_s: float
    running: int
    waiting: int
    free: int
    preempted: int
    ops: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True)
class Recording:
    """A folder that was read."""

    folder: Path
    config: Config
    requests: tuple[Recorded, ...]
    """In the order of the trace."""

    @property
    def complete(self) -> bool:
        """Whether every request of the trace was recorded."""
        return len(self.requests) == self.config.requests

    def steps(self) -> Iterator[Step]:
        """Every step up to the last that changed something.

        Raises:
            EngineError: at the first line that is none.
        """
        before: Step | None = None
        for record in _lines(self.folder / STEPS):
            step = _built(self.folder / STEPS, Step, record, ops=_ops)
            if before is not None:
                yield from (replace(before, step=at, ops=()) for at in range(before.step + 1, step.step))
            yield step
            before = step

    def events(self) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """The KV events of each step that had some."""
        for record in _lines(self.folder / EVENTS):
            try:
                yield int(record["step"]), list(record["events"])
            except (KeyError, TypeError, ValueError):
                raise _damaged(self.folder / EVENTS, "a line has no step and events") from None


def note(event: dict[str, Any], copies: Counter[int]) -> list[int]:
    """Takes up a KV event in how often each block is there, and returns the blocks that it removed."""
    added = {"BlockStored": 1, "BlockRemoved": -1}.get(event.get("type", ""), 0)
    blocks = list(event.get("block_hashes", ()))
    for block in blocks:
        copies[block] += added
    return blocks if added < 0 else []


def held(copies: Counter[int]) -> set[int]:
    """The blocks of which at least one copy is there."""
    return {block for block, count in copies.items() if count > 0}


def read_run(folder: Path) -> Recording:
    """The recording in a folder; a last line that was cut off is left out.

    Raises:
        EngineError: the folder holds none, or one that was changed.
    """
    return Recording(folder, read_config(folder), tuple(_requests(folder)))


def read_config(folder: Path) -> Config:
    """How the recording in a folder was made. Raises EngineError where there is none."""
    path = folder / CONFIG
    if not path.is_file():
        raise EngineError(f"{folder} holds no recording; give a folder that `engine record --out` made")
    try:
        found = read_json(path)
    except NotJson as error:
        raise EngineError(f"{error}; record again into another folder") from None
    head = (found.pop("format", None), found.pop("version", None)) if isinstance(found, dict) else ()
    if head != (FORMAT, VERSION):
        raise EngineError(f"{path} is no recording of version {VERSION}; record again with this version")
    return _built(path, Config, found)


def _requests(folder: Path) -> list[Recorded]:
    path, known = folder / REQUESTS, dict[int, Recorded]()
    for record in _lines(path):
        one = _built(path, Recorded, record, blocks=_pairs, steps=tuple)
        if one.request in known:
            raise _damaged(path, f"request {one.request} stands in it twice")
        known[one.request] = one
    return [known[number] for number in sorted(known)]


def _pairs(value: Any) -> tuple[Run, ...]:
    return tuple((int(start), int(length)) for start, length in value)


def _ops(value: Any) -> tuple[tuple[Any, ...], ...]:
    return tuple(tuple(op) for op in value)


def _built(path: Path, kind: type, record: Any, **parts: Callable[[Any], Any]) -> Any:
    try:
        return kind(**record | {name: build(record[name]) for name, build in parts.items()})
    except (TypeError, ValueError, KeyError):
        raise _damaged(
            path, f"expected the fields of {kind.__name__.lower()}, got {str(record)[:80]}"
        ) from None


def _lines(path: Path) -> Iterator[Any]:
    """The values of the whole lines of a file; none where there is no file."""
    if not path.exists():
        return
    with open(regular(path), "rb") as file:
        for number, line in lines_of(file):
            if not line.endswith(b"\n"):
                return
            try:
                yield json_value(line)
            except NotJson as error:
                raise _damaged(path, f"line {number}: {error}") from None


def _damaged(path: Path, what: str) -> EngineError:
    return EngineError(f"{path}: {what}; restore the file, or record again into another folder")


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
        self.finished = tuple(_requests(self.folder))
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
    kept = [json.dumps(one, separators=(",", ":")) for one in _lines(path) if one["step"] <= last]
    if path.exists():
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

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

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kv_cache_rl.experiments.engine.checks import unfit_request, wrong_config, wrong_request, wrong_step
from kv_cache_rl.experiments.engine.plan import EngineError
from kv_cache_rl.files import NotJson, json_value, lines_of, read_json, regular

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
    prefix_caching: bool = True
    """Whether requests find what others computed."""
    long_prefill: int = 0
    """Tokens of a prompt that a step computes at most while other requests are there; 0: any."""
    watermark: float = 0.0
    """Share of the pool that stays free where a request is admitted beside others."""

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
        """Every step up to the last that changed something; none while nothing ran or waited.

        Raises:
            EngineError: at the first line that is none.
        """
        before: Step | None = None
        for record in lines_in(self.folder / STEPS):
            step = _built(self.folder / STEPS, Step, record, ops=_tuples)
            if isinstance(step.step, int):
                self._check_follows(before, step)
            _refuse(self.folder / STEPS, wrong_step(step, self.config))
            if before is not None and (before.running or before.waiting):
                yield from (replace(before, step=at, ops=()) for at in range(before.step + 1, step.step))
            yield step
            before = step

    def _check_follows(self, before: Step | None, step: Step) -> None:
        """Raises EngineError for a step that is not behind the one before, or too far.

        While requests run the first of them computes, and fills a block in so many steps as it has tokens.
        """
        if before is None:
            return
        runs = before.running or before.waiting
        if not before.step < step.step <= before.step + (self.config.block_tokens if runs else sys.maxsize):
            raise _damaged(self.folder / STEPS, f"step {step.step} stands behind step {before.step}")

    def events(self) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """The KV events of each step that had some."""
        for record in lines_in(self.folder / EVENTS):
            try:
                step, events = int(record["step"]), list(record["events"])
                for event in events:  # what `note` looks up
                    hash((event.get("type", ""), *event.get("block_hashes", ())))
            except (KeyError, TypeError, ValueError, AttributeError):
                raise _damaged(self.folder / EVENTS, "a line has no step and events") from None
            yield step, events


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
    config, requests = read_config(folder), tuple(requests_in(folder))
    for one in requests:
        _refuse(folder / REQUESTS, unfit_request(one, config))
    return Recording(folder, config, requests)


def read_config(folder: Path) -> Config:
    """How the recording in a folder was made. Raises EngineError where there is none."""
    path = folder / CONFIG
    if not path.is_file():
        raise EngineError(f"{folder} holds no recording; give a folder that `engine record --out` made")
    try:
        found = read_json(path)
    except NotJson as error:
        raise EngineError(f"{error}; record again into another folder") from None
    if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
        raise EngineError(f"{path} is of no recording; give a folder that `engine record --out` made")
    if found.pop("version", None) != VERSION:
        raise EngineError(f"{path} is no recording of version {VERSION}; record again with this version")
    config = _built(path, Config, found)
    _refuse(path, wrong_config(config))
    return config


def requests_in(folder: Path) -> list[Recorded]:
    """The requests that are whole, in the order of the trace. Raises EngineError for a line that is none."""
    path, known = folder / REQUESTS, dict[int, Recorded]()
    for record in lines_in(path):
        one = _built(path, Recorded, record, blocks=_tuples, steps=tuple)
        _refuse(path, wrong_request(one))
        if one.request in known:
            raise _damaged(path, f"request {one.request} stands in it twice")
        known[one.request] = one
    return [known[number] for number in sorted(known)]


def _tuples(value: Any) -> tuple[tuple[Any, ...], ...]:
    return tuple(tuple(part) for part in value)


def _built(path: Path, kind: type, record: Any, **parts: Callable[[Any], Any]) -> Any:
    try:
        return kind(**record | {name: build(record[name]) for name, build in parts.items()})
    except (TypeError, ValueError, KeyError):
        raise _damaged(
            path, f"expected the fields of {kind.__name__.lower()}, got {str(record)[:80]}"
        ) from None


def lines_in(path: Path) -> Iterator[Any]:
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


def step_of(path: Path, record: Any) -> int:
    """The step that a line of steps or events belongs to. Raises EngineError where it names none."""
    step = record.get("step") if isinstance(record, dict) else None
    if type(step) is not int:
        raise _damaged(path, f"a line names no step: {str(record)[:80]}")
    return step


def _refuse(path: Path, what: str | None) -> None:
    if what is not None:
        raise _damaged(path, what)


def _damaged(path: Path, what: str) -> EngineError:
    return EngineError(f"{path}: {what}; restore the file, or record again into another folder")

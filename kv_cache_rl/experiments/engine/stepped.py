"""A recording in the serving world under vLLM's rules: which steps are equal, and where the schedules part.

The world is told what the engine was asked, its pool and its rules, and nothing of what the engine did: when
requests come, whose blocks they share, how long their answers are. A recording by the clock cannot be told
so, since when its requests come depends on how long the engine's steps took.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kv_cache_rl.experiments.engine.folder import Config, Recorded, Recording, Step
from kv_cache_rl.experiments.engine.plan import EngineError, writers
from kv_cache_rl.experiments.engine.replayed import NULL_BLOCKS, blocks_of
from kv_cache_rl.sim.serving.columns import ACTIVE, FINISHED
from kv_cache_rl.sim.serving.vllm import COUNTS
from kv_cache_rl.sim.serving.vllm_server import Ask, Rules, Server, new_server

NEVER = 1 << 60
"""A step that no server takes."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a side does with a request after a step."""

    state: str
    """`runs`, `waits`, `was preempted` or `is over`."""
    blocks: int
    found: int
    """Blocks found when it first started."""


@dataclass(frozen=True, slots=True)
class Parting:
    """The first step that is not equal."""

    step: int
    engine: dict[str, int] | None
    """What is counted of it; None: the side took no such step."""
    world: dict[str, int] | None
    request: int | None
    """The first request with which either side does something else; None: with none."""
    engine_held: Held | None
    world_held: Held | None
    why: str


@dataclass(frozen=True, slots=True)
class Steps:
    """A recording beside the serving world."""

    recording: str
    config: dict[str, Any]
    steps: int
    """Of the engine; 0: they are not compared."""
    equal: int
    preempted: int
    """Preemptions in the engine."""
    first: Parting | None
    not_compared: str | None
    """Why."""

    def to_json(self) -> dict[str, Any]:
        """Everything."""
        return asdict(self)


def compare_steps(recording: Recording) -> Steps:
    """Which steps of a recording the serving world takes alike.

    Raises:
        EngineError: the recording's lines do not fit each other.
    """
    config = recording.config
    if not recording.requests:
        raise EngineError(f"{recording.folder} holds no finished request; go on with engine record --resume")
    head = recording.folder.name, asdict(config)
    if (why := _not_comparable(recording)) is not None:
        return Steps(*head, 0, 0, 0, None, why)
    engine = list(recording.steps())
    if not engine:
        return Steps(*head, 0, 0, 0, None, "it has no step; restore steps.jsonl, or record again")
    world = server_of(recording).advance(engine[-1].step + 1)
    counted = {one[0]: one for one in map(tuple, world.tolist())}
    parted = [one.step for one in engine if counted.pop(one.step, None) != _counts(one)]
    equal = len(engine) - len(parted)
    parted += counted  # what is left of the world's are steps that the engine did not take
    first = _parting(recording, engine, world, min(parted)) if parted else None
    return Steps(*head, len(engine), equal, engine[-1].preempted, first, None)


def _not_comparable(recording: Recording) -> str | None:
    config = recording.config
    if config.at == "trace":
        return "requests came by the clock, and a step has no time of its own; record with --at step or once"
    if not recording.complete:
        done = f"{len(recording.requests):,} of {config.requests:,} requests are recorded"
        return f"{done}, and what the others held is not known; go on with engine record --resume"
    if config.policy != "lru":
        return f"recorded under {config.policy}; the rules are vLLM's own"
    return None


def rules_of(config: Config) -> Rules:
    """The rules of a recording's engine."""
    return Rules(
        blocks=config.blocks - NULL_BLOCKS,
        block_tokens=config.block_tokens,
        token_budget=config.token_budget,
        most_running=config.max_num_seqs,
        prefix_caching=config.prefix_caching,
        long_prefill=config.long_prefill,
        watermark=int(config.watermark * config.blocks),
    )


def server_of(recording: Recording) -> Server:
    """The serving world under vLLM's rules, asked what the engine was asked.

    Raises:
        ServingError: a request that no such server can serve.
    """
    config, requests = recording.config, recording.requests
    size, paths = config.block_tokens, [blocks_of(one.blocks) for one in recording.requests]
    first = [-1] * len(requests)
    if not config.one_at_a_time:
        first = writers(zip(paths, (one.prompt // size for one in requests), strict=True))
    named: dict[tuple[int, int], int] = {}
    asks = []
    for one, path, after in zip(requests, paths, first, strict=True):
        before, content = -1, list[int]()
        for block in path:
            # A block is found behind the same blocks only.
            before = named.setdefault((before, block), len(named))
            content.append(before)
        asks.append(Ask(_due(one, recording), one.prompt, one.generated, content, after))
    return new_server(asks, rules_of(config))


def _due(one: Recorded, recording: Recording) -> int:
    """The step before which a request comes."""
    since = one.time_s - recording.requests[0].time_s
    return math.ceil(min(since * recording.config.rate, NEVER)) if recording.config.at == "step" else 0


def _counts(one: Step) -> tuple[int, ...]:
    return one.step, one.running, one.waiting, one.free, one.preempted


def _parting(recording: Recording, engine: list[Step], world: np.ndarray, step: int) -> Parting:
    """What either side had in the first step that is not equal."""
    server = server_of(recording)
    server.advance(step + 1)
    theirs = _engine_held(recording, (one for one in engine if one.step <= step), step)
    ours = _world_held(server, recording)
    differ = [number for number in sorted(theirs) if theirs[number] != ours[number]]
    started = [number for number in differ if "runs" in (theirs[number].state, ours[number].state)]
    number = (started or differ or [None])[0]
    engine_held, world_held = (None, None) if number is None else (theirs[number], ours[number])
    return Parting(
        step=step,
        engine=_named(map(_counts, engine), step),
        world=_named(map(tuple, world.tolist()), step),
        request=number,
        engine_held=engine_held,
        world_held=world_held,
        why=_why(engine_held, world_held),
    )


def _named(counted: Iterable[tuple[int, ...]], step: int) -> dict[str, int] | None:
    """What was counted of a step, by name; None where there was none."""
    return next((dict(zip(COUNTS[1:], one[1:], strict=True)) for one in counted if one[0] == step), None)


def _engine_held(recording: Recording, steps: Iterable[Step], last: int) -> dict[int, Held]:
    """Every request of a recording after a step."""
    held, found = dict[int, int](), dict[int, int]()
    for step in steps:
        for op in step.ops:
            if op[0] == "free":
                held.pop(op[1], None)
                continue
            held[op[1]] = op[4]
            if op[2] is not None:
                found.setdefault(op[1], op[2])
    over = {one.request for one in recording.requests if one.steps[1] <= last}
    asked = range(len(recording.requests))
    state = dict.fromkeys(asked, "waits") | dict.fromkeys(found, "was preempted")
    state |= dict.fromkeys(over, "is over") | dict.fromkeys(held, "runs")
    return {number: Held(state[number], held.get(number, 0), found.get(number, 0)) for number in asked}


def _world_held(server: Server, recording: Recording) -> dict[int, Held]:
    """Every request of the world now; one that has not come counts as waiting: a recording has it so."""
    return {row: _row_held(one, recording.config) for row, one in enumerate(server.columns.rows)}


def _row_held(row: np.record, config: Config) -> Held:
    status, found = int(row["status"]), int(row["found"])
    state = {ACTIVE: "runs", FINISHED: "is over"}.get(status, "waits" if found < 0 else "was preempted")
    return Held(state, int(row["blocks"]), max(found, 0) // config.block_tokens)


FOUND = "they found another number of blocks when it started"
STARTED = "one has started it and the other has not"
PREEMPTED = "one has preempted it, or has it back, and the other has not"
ENDED = "one is through with it and the other is not"
GREW = "they have computed another number of its tokens"
SHARED = "each request holds as many blocks on both sides: the pools differ, or other blocks are shared"
CAUSES = (FOUND, STARTED, PREEMPTED, ENDED, GREW, SHARED)
"""Why a step is not equal."""


def _why(engine: Held | None, world: Held | None) -> str:
    if engine is None or world is None:
        return SHARED
    if "is over" in (engine.state, world.state):
        return ENDED
    if engine.state != world.state:
        return PREEMPTED if "was preempted" in (engine.state, world.state) else STARTED
    return FOUND if engine.found != world.found else GREW

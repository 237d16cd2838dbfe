"""Claude Code sessions in run-length form: one session a line, with ids of 64-token blocks as runs.

The published file is `cc_sessions_rle.jsonl.gz` of callanjfox/kv-cache-tester (Apache-2.0). Block
ids have a meaning only inside their session. A run (first, length) stands for the ids first, first
+ 1, ..., first + length - 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kv_cache_rl.traces.fields import LARGEST, Fields, check_whole, json_fields, shown
from kv_cache_rl.traces.lines import Line, read_lines

LONGEST_CALL_S = 1e6

Run = tuple[int, int]  # first id, number of consecutive ids


@dataclass(frozen=True, slots=True)
class Request:
    """One call of the model."""

    t_s: float  # start, seconds since the session's (or sub-agent's) start
    kind: str  # "n" | "s" (streamed)
    input_tokens: int
    output_tokens: int
    stop: str  # "tool_use" | "end_turn" | "" (not recorded)
    api_s: float | None  # from start to last token; None where the source did not record it
    think_s: float | None  # seconds between the last recorded end and this start
    input_types: tuple[str, ...]
    output_types: tuple[str, ...]
    runs: tuple[Run, ...]  # block ids of the input; only full blocks


@dataclass(frozen=True, slots=True)
class SubAgent:
    """An agent that the session started; its block ids are the session's."""

    t_s: float  # start, seconds since the session's start; its requests count from here
    agent_id: str
    agent_type: str
    tool_tokens: int
    system_tokens: int
    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class Session:
    """One session; `requests` holds its calls and the sub-agents it started, in order of time."""

    id: str
    models: tuple[str, ...]
    block_size: int
    tool_tokens: int
    system_tokens: int
    exact_duplicate: bool  # the source marked it as a copy of another session
    requests: tuple[Request | SubAgent, ...]

    @property
    def calls(self) -> tuple[Request, ...]:
        """The session's own requests, without those of its sub-agents."""
        return tuple(entry for entry in self.requests if isinstance(entry, Request))

    @property
    def sub_agents(self) -> tuple[SubAgent, ...]:
        """The sub-agents, in the order in which they started."""
        return tuple(entry for entry in self.requests if isinstance(entry, SubAgent))


def read_sessions(path: str | Path, *, drop_duplicates: bool = False) -> Iterator[Session]:
    """The sessions of a file, in its order; `drop_duplicates` leaves out marked exact duplicates.

    Raises:
        TraceError: at the first line that is not a session of this format.
    """
    return parse_sessions(read_lines(path), drop_duplicates=drop_duplicates)


def parse_sessions(lines: Iterable[Line], *, drop_duplicates: bool = False) -> Iterator[Session]:
    """The same from lines that are already in memory."""
    seen: dict[str, int] = {}
    for place, text in lines:
        session = parse_session(json_fields(place, text))
        if session.id in seen:
            raise place.error(
                f"session {shown(session.id)} already stands on line {seen[session.id]}",
                "give each its own id",
                "id",
            )
        seen[session.id] = place.line
        if not (drop_duplicates and session.exact_duplicate):
            yield session


def parse_session(fields: Fields) -> Session:
    """The session in the fields of a line.

    Raises:
        TraceError: a field is missing or bad.
    """
    scope = fields.text("hash_id_scope")
    if scope != "local":
        raise fields.error(
            "hash_id_scope", f"unknown scope {shown(scope)}", "only 'local' block ids are supported"
        )
    block_size = fields.whole("block_size", least=1, most=2**20)
    return Session(
        id=fields.text("id"),
        models=fields.texts("models"),
        block_size=block_size,
        tool_tokens=fields.whole("tool_tokens"),
        system_tokens=fields.whole("system_tokens"),
        exact_duplicate=fields.flag("exact_duplicate"),
        requests=_entries(fields, block_size),
    )


def _entries(fields: Fields, block_size: int, nested: bool = False) -> tuple[Any, ...]:
    entries: list[Request | SubAgent] = []
    for at, item in enumerate(fields.items("requests")):
        inner = fields.inner("requests", at, item)
        kind = inner.text("type")
        if kind in ("n", "s"):
            entry: Request | SubAgent = _request(inner, kind, block_size)
        elif kind == "subagent" and not nested:
            entry = _sub_agent(inner, block_size)
        else:
            problem = (
                "a sub-agent inside a sub-agent" if kind == "subagent" else f"unknown type {shown(kind)}"
            )
            raise inner.error("type", problem, "use n, s, or subagent at the top level")
        if entries and entry.t_s < entries[-1].t_s:
            raise inner.error(
                "t", f"{entry.t_s:g} s is before {entries[-1].t_s:g} s", "put requests in order of time"
            )
        entries.append(entry)
    if not entries:
        raise fields.error("requests", "the list is empty", "give at least one request")
    return tuple(entries)


def _request(fields: Fields, kind: str, block_size: int) -> Request:
    tokens = fields.whole("in")
    return Request(
        t_s=fields.seconds("t"),
        kind=kind,
        input_tokens=tokens,
        output_tokens=fields.whole("out"),
        stop=fields.text("stop"),
        api_s=fields.seconds("api_time", most=LONGEST_CALL_S, default=None),
        think_s=fields.seconds("think_time", default=None),
        input_types=fields.texts("it"),
        output_types=fields.texts("ot"),
        runs=_runs(fields, tokens // block_size),
    )


def _sub_agent(fields: Fields, block_size: int) -> SubAgent:
    return SubAgent(
        t_s=fields.seconds("t"),
        agent_id=fields.text("agent_id"),
        agent_type=fields.text("subagent_type", default=""),
        tool_tokens=fields.whole("tool_tokens"),
        system_tokens=fields.whole("system_tokens"),
        requests=_entries(fields, block_size, nested=True),
    )


def _runs(fields: Fields, blocks: int) -> tuple[Run, ...]:
    runs: list[Run] = []
    for at, item in enumerate(fields.items("h")):
        name = f"h[{at}]"
        if not isinstance(item, list) or len(item) != 2:
            raise fields.error(
                name, f"expected [first id, length], got {shown(item)}", "write runs as two integers"
            )
        first = check_whole(fields, f"{name}[0]", item[0], 0, LARGEST)
        length = check_whole(fields, f"{name}[1]", item[1], 1, LARGEST)
        if first + length - 1 > LARGEST:
            raise fields.error(
                name, f"the last id {first + length - 1} has more than 63 bits", "use smaller ids"
            )
        runs.append((first, length))
    total = sum(length for _, length in runs)
    if total != blocks:
        raise fields.error(
            "h", f"runs cover {total} blocks, the input has {blocks} full ones", "correct h or in"
        )
    return tuple(runs)


def shared_blocks(left: tuple[Run, ...], right: tuple[Run, ...]) -> int:
    """How many leading blocks two requests of one session share, however their runs are cut."""
    shared = at_left = at_right = used_left = used_right = 0
    while at_left < len(left) and at_right < len(right):
        (first_left, length_left), (first_right, length_right) = left[at_left], right[at_right]
        if first_left + used_left != first_right + used_right:
            break
        step = min(length_left - used_left, length_right - used_right)
        shared, used_left, used_right = shared + step, used_left + step, used_right + step
        if used_left == length_left:
            at_left, used_left = at_left + 1, 0
        if used_right == length_right:
            at_right, used_right = at_right + 1, 0
    return shared

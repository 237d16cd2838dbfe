"""Claude Code sessions as callanjfox/kv-cache-tester (Apache-2.0) publishes them: one JSON object a
session, in a file each, in a folder of such files, or one a line.

A call lists the ids of its 64-token blocks (`hash_ids`); in the run-length form, which is a
hundredth of the size, as runs (`h`), where (first, length) stands for the ids first, first + 1,
..., first + length - 1. Ids mean something only inside their session, unless the session says
`"hash_id_scope": "global"`. Everything but the times, the lengths and the ids may be missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

from kv_cache_rl.traces.blocks import Blocks, Names, blocks_of
from kv_cache_rl.traces.errors import Place
from kv_cache_rl.traces.fields import LARGEST, Fields, pair_of, shown
from kv_cache_rl.traces.files import sources
from kv_cache_rl.traces.lines import Line
from kv_cache_rl.traces.reading import PLAIN, Reading, located
from kv_cache_rl.traces.records import parse_records, read_records
from kv_cache_rl.traces.runs import runs_of

LONGEST_CALL_S = 1e6
BLOCK_TOKENS = 64
COPIES = "requests of sessions that are exact duplicates"
"""Why a request is left out."""

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
    """An agent that the session started; its block ids share the session's namespace."""

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
    is_global: bool = False  # its block ids mean the same in every session that says so
    place: Place = field(default=Place(""), compare=False)

    @property
    def all_calls(self) -> tuple[Request, ...]:
        """The session's own requests and those of its sub-agents, in its order."""
        return tuple(call for call, _ in self._started())

    @property
    def starts(self) -> list[float]:
        """When each of `all_calls` started, seconds since the session's start."""
        return [start for _, start in self._started()]

    def _started(self) -> Iterator[tuple[Request, float]]:
        for entry in self.requests:
            if isinstance(entry, Request):
                yield entry, entry.t_s
            else:
                yield from ((call, entry.t_s + call.t_s) for call in entry.requests)

    @property
    def calls(self) -> tuple[Request, ...]:
        """The session's own requests, without those of its sub-agents."""
        return tuple(entry for entry in self.requests if isinstance(entry, Request))

    @property
    def sub_agents(self) -> tuple[SubAgent, ...]:
        """The sub-agents, in the order in which they started."""
        return tuple(entry for entry in self.requests if isinstance(entry, SubAgent))


def read_sessions(path: str | Path, *, drop_duplicates: bool = False) -> Iterator[Session]:
    """The sessions of a file or folder, in its order, without those marked as exact duplicates if
    asked.

    Raises TraceError at the first that is not a session of this format.
    """
    name, reading = located(path)
    records = (fields for source in sources(name) for fields in read_records(source))
    return islice(_sessions(records, drop_duplicates, reading), reading.limit)


def parse_sessions(lines: Iterable[Line], *, drop_duplicates: bool = False) -> Iterator[Session]:
    """The same from lines that are already in memory."""
    return _sessions(parse_records(lines), drop_duplicates, PLAIN)


def distinct(sessions: Iterable[Session], left_out: Counter[str] | None = None) -> Iterator[Session]:
    """The sessions without exact duplicates, flagged or found; `left_out` counts the requests of
    those dropped.

    This is what every command plays: no world counts a copy as traffic.
    """
    contents: set[bytes] = set()
    for session in sessions:
        content = blake2b(repr(session.requests).encode()).digest()
        if session.exact_duplicate or content in contents:
            if left_out is not None:
                left_out[COPIES] += len(session.all_calls)
            continue
        contents.add(content)
        yield session


def _sessions(records: Iterable[Fields], drop_duplicates: bool, reading: Reading) -> Iterator[Session]:
    seen: dict[str, Place] = {}
    common = Names()
    empty: Fields | None = None
    for fields in records:
        if fields.record.get("requests") == []:  # one that was opened and never called a model
            empty = empty or fields
            continue
        session = parse_session(fields, reading, common)
        if session.id in seen:
            before = seen[session.id]
            where = f"on line {before.line}" if before.path == fields.place.path else f"in {before.path}"
            raise fields.place.error(
                f"session {shown(session.id)} already stands {where}", "give each its own id", "id"
            )
        seen[session.id] = fields.place
        if not (drop_duplicates and session.exact_duplicate):
            yield session
    if empty is not None and not seen:
        raise empty.error("requests", "the list is empty", "give at least one request")


def parse_session(fields: Fields, reading: Reading = PLAIN, common: Names | None = None) -> Session:
    """The session that a record's fields describe; `common` names the ids that sessions share."""
    scope = fields.text("hash_id_scope", default="local")
    if scope not in ("local", "global"):
        raise fields.error("hash_id_scope", f"unknown scope {shown(scope)}", "write 'local' or 'global'")
    return Session(
        id=_id(fields),
        models=fields.texts("models", default=()),
        block_size=(block_size := _block_size(fields, reading)),
        tool_tokens=fields.tokens("tool_tokens", default=0),
        system_tokens=fields.tokens("system_tokens", default=0),
        exact_duplicate=fields.flag("exact_duplicate", default=False),
        requests=_entries(fields, block_size, common if common and scope == "global" else Names()),
        is_global=scope == "global",
        place=fields.place,
    )


def _id(fields: Fields) -> str:
    """A session's name; a number is one, too."""
    value = fields.take("id")
    return str(value) if type(value) is int else fields.text("id")


def _block_size(fields: Fields, reading: Reading) -> int:
    """The size that the session states, else the one that is given, else the one that its calls
    tell.
    """
    stated = fields.whole("block_size", least=1, most=2**20, default=None)
    if stated is not None and reading.block_size not in (None, stated):
        raise fields.error(
            "block_size",
            f"the session has blocks of {stated} tokens",
            f"leave out --block-size {reading.block_size}",
        )
    if stated is not None or reading.block_size is not None:
        return stated or reading.block_size or BLOCK_TOKENS
    return blocks_of(fields.place, _lengths(fields.items("requests")), BLOCK_TOKENS).size


def _lengths(entries: Iterable[Any]) -> Iterator[tuple[int, int]]:
    """Tokens and blocks of each call, those of sub-agents included; what is no call is left out."""
    for one in entries:
        if not isinstance(one, dict):
            continue
        if isinstance(inner := one.get("requests"), list):
            yield from _lengths(inner)
        ids, runs = one.get("hash_ids"), one.get("h")
        if isinstance(runs, list) and not isinstance(ids, list):
            pairs = [run for run in runs if isinstance(run, list) and len(run) == 2]
            ids = range(sum(length for _, length in pairs if type(length) is int and length > 0))
        if isinstance(ids, list | range) and type(one.get("in")) is int:
            yield one["in"], len(ids)


def _entries(fields: Fields, block_size: int, names: Names, nested: bool = False) -> tuple[Any, ...]:
    entries: list[Request | SubAgent] = []
    for at, item in enumerate(fields.items("requests")):
        inner = fields.inner("requests", at, item)
        kind = inner.text("type")
        if kind in ("n", "s"):
            entry: Request | SubAgent = _request(inner, kind, block_size, names)
        elif kind == "subagent" and not nested:
            if not inner.record.get("requests"):
                continue  # an agent that was started and never called a model
            entry = _sub_agent(inner, block_size, names)
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


def _request(fields: Fields, kind: str, block_size: int, names: Names) -> Request:
    tokens = fields.tokens("in")
    long = "hash_ids" in fields.record
    return Request(
        t_s=fields.seconds("t"),
        kind=kind,
        input_tokens=tokens,
        output_tokens=fields.tokens("out"),
        stop=fields.text("stop", default=""),
        api_s=fields.seconds("api_time", most=LONGEST_CALL_S, default=None),
        think_s=fields.seconds("think_time", default=None),
        input_types=fields.texts("input_types" if "input_types" in fields.record else "it", default=()),
        output_types=fields.texts("output_types" if "output_types" in fields.record else "ot", default=()),
        runs=_listed(fields, tokens, block_size, names) if long else _runs(fields, tokens, block_size),
    )


def _listed(fields: Fields, tokens: int, block_size: int, names: Names) -> tuple[Run, ...]:
    """Ids that are listed one by one, as runs."""
    ids = names.taken(fields, "hash_ids")
    Blocks(block_size, None).check(fields, "hash_ids", tokens, len(ids))
    return tuple(runs_of(ids))


def _sub_agent(fields: Fields, block_size: int, names: Names) -> SubAgent:
    return SubAgent(
        t_s=fields.seconds("t"),
        agent_id=fields.text("agent_id", default=""),
        agent_type=fields.text("subagent_type", default=""),
        tool_tokens=fields.tokens("tool_tokens", default=0),
        system_tokens=fields.tokens("system_tokens", default=0),
        requests=_entries(fields, block_size, names, nested=True),
    )


def _runs(fields: Fields, tokens: int, block_size: int) -> tuple[Run, ...]:
    runs: list[Run] = []
    for at, item in enumerate(fields.items("h")):
        name = f"h[{at}]"
        first, length = pair_of(fields, name, item, LARGEST)
        if first + length - 1 > LARGEST:
            raise fields.error(
                name, f"the last id {first + length - 1} has more than 63 bits", "use smaller ids"
            )
        runs.append((first, length))
    total = sum(length for _, length in runs)
    if total not in (blocks := tokens // block_size, -(-tokens // block_size)):
        raise fields.error(
            "h",
            f"runs cover {total} blocks, the input has {blocks} full ones of {block_size} tokens",
            "correct h or in, or name the size (block_size in the session, or --block-size)",
        )
    return tuple(runs)


def shared_blocks(left: tuple[Run, ...], right: tuple[Run, ...]) -> int:
    """How many leading blocks two requests of one session have in common, however the runs are cut."""
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

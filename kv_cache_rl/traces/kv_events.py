"""KV events: which blocks an engine's cache stored and removed, as vLLM, SGLang and Dynamo say it.

    vLLM    [ts, [event, ...], rank], or an object with ts, events and data_parallel_rank
            event: {"type": "BlockStored", ...}, or its fields in order: ["BlockStored", [hashes], ...]
    Dynamo  {"event_id", "data": {"stored" | "removed": ...} or "cleared", "dp_rank"}, alone, in
            {"worker_id", "event"}, or in a recorder's {"timestamp", "event"}

A file holds them as JSON, one batch a line, or as the msgpack payloads of vLLM's stream one after the
other. What a newer engine adds does no harm: fields that are not known are passed over, events that are
not known are kept as they came. kv_requests.py says which requests can be told from them.

Source: vLLM 0.32, distributed/kv_events.py; Dynamo, lib/kv-router/src/protocols.rs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from kv_cache_rl.traces.errors import Place
from kv_cache_rl.traces.fields import Fields, json_fields, shown
from kv_cache_rl.traces.files import peek, unpacked
from kv_cache_rl.traces.lines import read_lines
from kv_cache_rl.traces.packed import looks_packed, packed_values
from kv_cache_rl.traces.reading import Reading, located
from kv_cache_rl.traces.records import parse_records

Name = int | str
"""What an engine calls a block: a number, or its hash as text (bytes become hexadecimal digits)."""
GPU = "GPU"
"""The medium of the cache itself; others are tiers below it."""
STORED, REMOVED, CLEARED = "BlockStored", "BlockRemoved", "AllBlocksCleared"
FIELDS = {
    STORED: (
        "block_hashes",
        "parent_block_hash",
        "token_ids",
        "block_size",
        "lora_id",
        "medium",
        "lora_name",
        "extra_keys",
        "group_idx",
    ),
    REMOVED: ("block_hashes", "medium", "group_idx"),
    CLEARED: (),
}
"""vLLM's events → their fields in the order in which some versions write them without names."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Blocks that entered a cache, each the child of the one before it."""

    blocks: tuple[Name, ...]
    parent: Name | None
    """Of the first block; None: it begins a prompt."""
    block_tokens: int = 0
    """0: not said."""
    medium: str = GPU
    group: int = 0
    """Of layers that keep blocks of their own."""
    session: str = ""


@dataclass(frozen=True, slots=True)
class Removed:
    """Blocks that left a cache."""

    blocks: tuple[Name, ...]
    medium: str = GPU
    group: int = 0


@dataclass(frozen=True, slots=True)
class Cleared:
    """A cache that lost all its blocks."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """An event of a schema that is newer than this reader."""

    name: str
    record: dict[str, Any]


Event = Stored | Removed | Cleared | Unknown


@dataclass(frozen=True, slots=True)
class Batch:
    """What one cache did in one step of its engine."""

    events: tuple[Event, ...]
    time_s: float | None = None
    """Seconds since 1970 on the engine's clock, or since the recorder's start."""
    rank: int = 0
    """Which of the caches that an engine's stream tells of."""
    sequence: int | None = None
    """The number of the batch in its stream."""
    missed: int = 0
    """Batches before this one that are not known."""
    restarted: bool = False
    """Whether another process goes on here, with an empty cache."""
    place: Place = field(default=Place(""), compare=False)


def read_kv_events(path: str | Path) -> Iterator[Batch]:
    """The batches of a file, in its order.

    Raises:
        TraceError: at the first that is none, or is cut off.
    """
    name, reading = located(path)
    return islice(_batches(name, reading), reading.limit)


def _batches(path: str, reading: Reading) -> Iterator[Batch]:
    for place, value in _values(path):
        yield batch_of(value, place, reading)


def _values(path: str) -> Iterator[tuple[Place, Any]]:
    with unpacked(path) as content:
        if looks_packed(peek(content, Place(path))):
            yield from packed_values(content, path)
            return
    lines = read_lines(path)
    first = next(lines)
    every = chain([first], lines)
    if is_unnamed(first[1]):
        yield from ((place, _unnamed(place, text)) for place, text in every)
    else:
        yield from ((fields.place, fields.record) for fields in parse_records(every))


def is_unnamed(text: str) -> bool:
    """Whether a line is a batch written without names: `[ts, [event, ...], rank]`."""
    return re.match(r"\[\s*[\d.eE+-]+\s*,\s*\[\s*(\[\s*\"|\{\s*\"type\")", text) is not None


def _unnamed(place: Place, text: str) -> Any:
    """The list on such a line; the errors are those of an object's line."""
    text = text.removesuffix(",")
    return json_fields(place, f'{{"batch": {text}' + "}" * text.endswith("]")).record["batch"]


def is_event(record: dict[str, Any]) -> bool:
    """Whether a JSON object is a batch or an event of those that are read here."""
    if str(record.get("type", "")) in FIELDS or ("ts" in record and isinstance(record.get("events"), list)):
        return True
    inner = record.get("event")
    if isinstance(inner, dict):
        return is_event(inner)
    data = record.get("data")
    kinds = set(data) if isinstance(data, dict) else {str(data)}
    return "event_id" in record and bool({"stored", "removed", "cleared"} & kinds)


def batch_of(value: Any, place: Place, reading: Reading | None = None) -> Batch:
    """The batch that a decoded value is. Raises TraceError where it is none."""
    how = reading or Reading()
    if isinstance(value, list):
        names = ("ts", "events", "data_parallel_rank")
        value = dict(zip(names, value, strict=False))
    if not isinstance(value, dict):
        raise place.error(f"expected a batch of KV events, got {shown(value)}", REMEDY)
    fields = Fields(value, place)
    if isinstance(value.get("event"), dict) or "data" in value:
        return _of_dynamo(fields, how)
    if "type" in value:
        return Batch((_event(fields, value),), place=place)
    moment = fields.number("ts", most=1e19, default=None)
    return Batch(
        tuple(_event(fields, one) for one in fields.items("events")),
        None if moment is None else how.seconds(moment, "s"),
        fields.whole("data_parallel_rank", default=None) or 0,
        fields.whole("seq", most=2**64 - 1, default=None),
        fields.whole("missed", most=2**64, default=0),
        bool(value.get("restarted")),
        place,
    )


NAME_LENGTH = 40
"""Characters of the name of an event that is not known."""
RANKS_OF_A_WORKER = 1024
"""More caches than one of Dynamo's workers has; the first rank of worker 1 is this one."""
REMEDY = "give vLLM's batches (ts, events) or Dynamo's events (event_id, data), one a line"


def _event(batch: Fields, value: Any) -> Event:
    if isinstance(value, list) and value and isinstance(value[0], str):
        record = dict(zip(("type", *FIELDS.get(value[0], ())), value, strict=False))
        if value[0] not in FIELDS:
            record["fields"] = value[1:]
    elif isinstance(value, dict) and isinstance(value.get("type"), str):
        record = value
    else:
        raise batch.error("events", f"expected an event with its type, got {shown(value)}", REMEDY)
    kind = READ.get(record["type"])
    if kind is None:
        return Unknown(record["type"][:NAME_LENGTH], record)
    return kind(Fields(record, batch.place))


def _stored(fields: Fields) -> Stored:
    parent = fields.record.get("parent_block_hash")
    return Stored(
        _names(fields, "block_hashes"),
        None if parent is None else _name(fields, "parent_block_hash", parent),
        fields.whole("block_size", most=2**20, default=0),
        fields.text("medium", default=None) or GPU,
        fields.whole("group_idx", default=0),
        "" if (session := fields.take("session_id", None)) is None else str(session),
    )


def _removed(fields: Fields) -> Removed:
    medium = fields.text("medium", default=None) or GPU
    return Removed(_names(fields, "block_hashes"), medium, fields.whole("group_idx", default=0))


READ: dict[str, Callable[[Fields], Event]] = {
    STORED: _stored,
    REMOVED: _removed,
    CLEARED: lambda fields: Cleared(),
}
"""vLLM's events → what reads them."""


def _of_dynamo(fields: Fields, reading: Reading) -> Batch:
    """The batch of one event of Dynamo's, in whichever of its wrappings it stands."""
    moment, worker, record = fields.number("timestamp", default=None), 0, fields.record
    for _ in range(2):
        if isinstance(record.get("event"), dict):
            worker = Fields(record, fields.place).whole("worker_id", default=worker)
            record = record["event"]
    inner = Fields(record, fields.place)
    rank = inner.whole("dp_rank", default=0)
    return Batch(
        (_dynamo_event(inner),),
        None if moment is None else reading.seconds(moment, "ms"),
        worker * RANKS_OF_A_WORKER + rank,
        inner.whole("event_id", most=2**64 - 1, default=None),
        place=fields.place,
    )


def _dynamo_event(fields: Fields) -> Event:
    data = fields.take("data")
    if not isinstance(data, str | dict):
        raise fields.error("data", f"expected what happened, got {shown(data)}", REMEDY)
    kind, body = (data, {}) if isinstance(data, str) else next(iter(data.items()), ("", {}))
    inner = Fields(body, fields.place, f"data.{kind}.") if isinstance(body, dict) else None
    if kind == "stored" and inner is not None:
        blocks = (inner.inner("blocks", at, one) for at, one in enumerate(inner.items("blocks")))
        parent = body.get("parent_hash")
        return Stored(
            tuple(_name(one, "block_hash", one.take("block_hash")) for one in blocks),
            None if parent is None else _name(inner, "parent_hash", parent),
        )
    if kind == "removed" and inner is not None:
        return Removed(_names(inner, "block_hashes"))
    return (
        Cleared()
        if kind == "cleared"
        else Unknown(str(kind)[:NAME_LENGTH], {"type": str(kind), "data": data})
    )


def _names(fields: Fields, name: str) -> tuple[Name, ...]:
    return tuple(_name(fields, f"{name}[{at}]", one) for at, one in enumerate(fields.items(name)))


def _name(fields: Fields, name: str, value: Any) -> Name:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise fields.error(name, f"expected the hash of a block, got {shown(value)}", REMEDY)
    return value

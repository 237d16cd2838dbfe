"""Which format a trace file has, told from its first record or its header, and what reads it.

A format reads its own records (`read`); those of single requests also give them in the common form
(`requests`), which is what commands take. Adding a format is its file and one line here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from kv_cache_rl.traces import azure, burstgpt, libcachesim, tracelab, vidur
from kv_cache_rl.traces.azure import azure_requests, read_azure
from kv_cache_rl.traces.bailian import bailian_requests, read_bailian
from kv_cache_rl.traces.burstgpt import burstgpt_requests, read_burstgpt
from kv_cache_rl.traces.claude_code import read_sessions
from kv_cache_rl.traces.errors import Place, place_of
from kv_cache_rl.traces.fields import FROM_TABLE, Fields, shown
from kv_cache_rl.traces.files import peek, sources, unpacked
from kv_cache_rl.traces.kv_events import is_event, is_unnamed, read_kv_events
from kv_cache_rl.traces.kv_requests import kv_events_requests
from kv_cache_rl.traces.lab import is_header, lab_requests, read_lab
from kv_cache_rl.traces.libcachesim import looks_like_oracle, read_libcachesim, read_oracle_general
from kv_cache_rl.traces.lines import UTF_16, Line, read_lines
from kv_cache_rl.traces.mooncake import mooncake_requests, read_mooncake
from kv_cache_rl.traces.packed import looks_packed
from kv_cache_rl.traces.ragpulse import ragpulse_requests, read_ragpulse
from kv_cache_rl.traces.reading import Reading, located
from kv_cache_rl.traces.records import parse_records
from kv_cache_rl.traces.requests import Requests
from kv_cache_rl.traces.sharegpt import read_sharegpt, sharegpt_requests
from kv_cache_rl.traces.tables import column_key, header_keys, no_header
from kv_cache_rl.traces.tracelab import read_tracelab, tracelab_requests
from kv_cache_rl.traces.vidur import read_vidur, vidur_requests


@dataclass(frozen=True, slots=True)
class Format:
    """How files of one format are read."""

    read: Callable[..., Iterator[Any]]
    """Path → its own records."""
    requests: Callable[[str, Reading], Requests] | None = None
    """Path and reading → its requests in the common form; None: it holds sessions or page accesses."""
    takes: tuple[str, ...] = ("time_unit",)
    """What of a reading can be said about it, apart from how much is read."""


def detect(path: str | Path) -> str:
    """The name of the file's format, a key of FORMATS; of a folder, that of its first file.

    Raises TraceError if the file cannot be read or fits none, saying what it is instead where that
    is known."""
    name, reading = located(path)
    if reading.format is not None:
        return known_format(reading.format, name, reading)
    first = sources(name)
    found = known_format(_detect_file(first[0]), name, reading)
    if found != "claude-code" and Path(name).is_dir():
        raise place_of(first[0]).error(
            f"a folder of {found} files; only Claude Code sessions are read from a folder",
            "name one of its files",
        )
    return found


def known_format(name: str, path: str | Path, reading: Reading) -> str:
    """The name itself.

    Raises TraceError where no format has it, and for an option that says nothing about files of it.
    """
    if name not in FORMATS:
        raise place_of(path).error(f"unknown format {shown(name)}", f"give one of {', '.join(FORMATS)}")
    for option, value in (("block_size", reading.block_size), ("time_unit", reading.time_unit)):
        if value is not None and option not in FORMATS[name].takes:
            says = (
                "names no blocks of one size" if option == "block_size" else "has times in a unit of its own"
            )
            if name == "lab" and option == "block_size":
                says = "states its block size"
            raise place_of(path).error(
                f"a trace in {name} format {says}", f"leave out --{option.replace('_', '-')}"
            )
    return name


def _detect_file(path: Path) -> str:
    whole = place_of(path)
    with unpacked(path) as content:
        head = peek(content, whole)
    if looks_packed(head):
        return "kv-events"
    if b"\0" in head and not head.startswith(UTF_16) and looks_like_oracle(head):
        return "oracle-general"
    lines = read_lines(path)
    for place, text in lines:
        if text.startswith(("{", "[")):
            return detect_records(place, chain([(place, text)], lines))
        if text.startswith("//") or (no_header(text) and _header_of(place, text) is None):
            continue
        return detect_line(place, text)
    raise whole.error("the file holds comments only", "give a trace with at least one request")


def detect_line(place: Place, text: str) -> str:
    """The format that a file's first line belongs to: a header of columns, or a JSON object."""
    if text.startswith(("{", "[")):
        return detect_records(place, iter([(place, text)]))
    if (name := _header_of(place, text)) is not None:
        return name
    columns = header_keys(place, text)
    refuse_table(place, columns)
    raise unknown(place, f"its columns: {', '.join(sorted(columns))[:120]}")


def _header_of(place: Place, text: str) -> str | None:
    columns = header_keys(place, text)
    fits = (name for name, header in HEADERS.items() if {column_key(column) for column in header} <= columns)
    return next(fits, None)


def detect_records(place: Place, lines: Iterator[Line]) -> str:
    """The format that the first of some records has, or the second where the first only describes
    the file.
    """
    first = next(lines, (place, ""))
    if is_unnamed(first[1]):
        return "kv-events"
    lines, keys = chain([first], lines), set[str]()
    for fields, _ in zip(parse_records(lines), range(2), strict=False):
        for name, fits in RECORDS.items():
            if fits(fields.record):
                return name
        refuse_kin(fields)
        keys |= set(map(str, fields.record))
    raise unknown(place, f"its fields: {', '.join(sorted(keys))[:120]}" if keys else "it holds no records")


def unknown(place: Place, found: str) -> Exception:
    """The error for a file that fits no format."""
    known = ", ".join(FORMATS)
    return place.error(
        f"the first line fits no known trace format ({found})",
        f"give one of {known}; docs/formats.md shows what each looks like",
    )


def refuse_table(place: Place, columns: Iterable[str]) -> None:
    """Raises TraceError for a table with the fields of a format that is JSON."""
    for name, least in AS_TABLES.items():
        if least <= set(columns):
            raise place.error(f"a table with the fields of {name}, whose files are JSON", FROM_TABLE)


def refuse_kin(fields: Fields) -> None:
    """Raises TraceError for what is near to a trace and none: Claude Code's own transcripts, and requests
    that stand inside another object.
    """
    record = fields.record
    if name := _wrapped(record):
        raise fields.place.error(
            "the requests stand in a list inside an object",
            f"write them for themselves, one a line: jq -c '.{name}[]' FILE > requests.jsonl",
            name,
        )
    if TRANSCRIPT & set(record) or {"sessionId", "type"} <= set(record):
        raise fields.place.error(
            "this is a transcript of Claude Code (~/.claude/projects): texts, without the ids of blocks",
            "give sessions as kv-cache-tester publishes them, or one request a line with timestamp, "
            "input_length, output_length and hash_ids (mooncake); docs/formats.md shows both",
        )


def _has(*keys: str) -> Callable[[dict[str, Any]], bool]:
    return lambda record: set(keys) <= set(record)


def _wrapped(record: dict[str, Any]) -> str:
    """The field whose list holds the requests of a trace, which are to stand for themselves; "" for none."""
    for name, value in record.items():
        first = value[0] if isinstance(value, list) and value else None
        if isinstance(first, dict) and _is_mooncake(first):
            return str(name)
    return ""


def _is_mooncake(record: dict[str, Any]) -> bool:
    timed = {"timestamp", "delay", "session_id", "hash_ids"} & set(record)
    return "input_length" in record and bool(timed)


RECORDS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "lab": lambda record: is_header(Fields(record, Place(""))),
    "claude-code": lambda record: isinstance(record.get("requests"), list) and not _wrapped(record),
    "sharegpt": lambda record: any(
        isinstance(record.get(key), list) for key in ("conversations", "messages")
    ),
    "ragpulse": lambda record: isinstance(record.get("hash_ids"), dict),
    "bailian": _has("chat_id", "input_length"),
    "mooncake": _is_mooncake,
    "kv-events": is_event,
}
"""Format → whether a JSON object is one of its records; the first that fits is the file's."""

AS_TABLES = {"bailian": {"chatid", "inputlength"}, "mooncake": {"inputlength", "hashids"}}
"""Format of JSON → the columns that a table of its records has, as `header_keys` writes them."""
TRANSCRIPT = {"parentUuid", "leafUuid"}
"""Fields of Claude Code's own transcripts; other lines of them have a type and the session's id."""

HEADERS = {
    "azure": azure.COLUMNS,
    "burstgpt": burstgpt.COLUMNS,
    "vidur": vidur.COLUMNS,
    "tracelab": tracelab.COLUMNS,
    "libcachesim": libcachesim.COLUMNS,
}
"""Format → the columns that its tables have at least."""

BOTH = ("block_size", "time_unit")
FORMATS: dict[str, Format] = {
    "claude-code": Format(read_sessions, takes=("block_size",)),
    "mooncake": Format(read_mooncake, mooncake_requests, BOTH),
    "bailian": Format(read_bailian, bailian_requests, BOTH),
    "azure": Format(read_azure, azure_requests),
    "burstgpt": Format(read_burstgpt, burstgpt_requests),
    "vidur": Format(read_vidur, vidur_requests),
    "ragpulse": Format(read_ragpulse, ragpulse_requests),
    "tracelab": Format(read_tracelab, tracelab_requests),
    "sharegpt": Format(read_sharegpt, sharegpt_requests, ()),
    "libcachesim": Format(read_libcachesim),
    "oracle-general": Format(read_oracle_general),
    "kv-events": Format(read_kv_events, kv_events_requests, BOTH),
    "lab": Format(read_lab, lab_requests, ()),
}


def read(path: str | Path) -> Iterator[Any]:
    """The records of a file of any known format, as its own reader gives them."""
    return FORMATS[detect(path)].read(path)


def requests_of(path: str | Path, reading: Reading | None = None) -> Requests:
    """The requests of a file of any format that holds single requests.

    Raises:
        TraceError: it cannot be read, or holds sessions or page accesses.
    """
    name, how = located(path, reading)
    format = detect(how.named(name))
    make = FORMATS[known_format(format, name, how)].requests
    if make is None:
        raise place_of(name).error(
            f"a trace in {format} format does not hold single requests",
            "give one with lengths; page accesses are replayed in the lab (kv-cache-rl hierarchy replay)",
        )
    return make(name, how)

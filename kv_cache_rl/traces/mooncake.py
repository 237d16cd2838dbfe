"""Mooncake traces (FAST'25, Apache-2.0) and their kin (Dynamo, aiperf, vLLM): one request a line,
with ids of chained blocks.

An id names a block together with everything before it, so an id has one parent and equal ids mean
equal prefixes. Of the kin come blocks of any size, decimal times, ids that are texts, rows without
ids or without an output length, and the turns of a session: the first row has a timestamp, each
later one a `delay` after the end of the turn before. Ends are not recorded, so a call is taken to
last `call_seconds`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from kv_cache_rl.traces.blocks import Blocks, Names, blocks_of
from kv_cache_rl.traces.calls import call_seconds
from kv_cache_rl.traces.errors import Place, place_of
from kv_cache_rl.traces.fields import Fields
from kv_cache_rl.traces.lines import Line
from kv_cache_rl.traces.reading import PLAIN, Reading, located
from kv_cache_rl.traces.records import parse_records, read_records
from kv_cache_rl.traces.requests import SORT, Arrival, Requests, forward, in_order
from kv_cache_rl.traces.tables import EPOCH_UNITS

BLOCK_TOKENS = 512
REQUEST_KEYS = ("timestamp", "input_length", "output_length", "hash_ids", "session_id", "delay")
CROWDED_PER_S = 100.0
"""Decimal times, and those that seconds since 1970 could be, with more requests per second than this on
average are probably seconds, not milliseconds.
"""


@dataclass(frozen=True, slots=True)
class MooncakeRequest:
    """One request."""

    timestamp_ms: float  # since the start of the trace; an integer where the file has one
    input_length: int  # tokens
    output_length: int | None  # tokens; None: the file does not say
    hash_ids: (
        tuple[int, ...] | None
    )  # one per full or begun block; texts are numbered (blocks.Names); None: none
    session_id: str = ""
    place: Place = field(default=Place(""), compare=False)


def read_mooncake(path: str | Path, *, block_size: int | None = None) -> Iterator[MooncakeRequest]:
    """The requests of a file, in its order, which must be the order of time (turns with a delay are
    put there).

    The block size is told from the file if not given. Raises TraceError at the first line that is
    not a request of this format."""
    name, reading = located(path)
    blocks = file_blocks(name, block_size or reading.block_size)
    return _requests(read_records(name), blocks, reading, Names())


def parse_mooncake(lines: Iterable[Line], *, block_size: int = BLOCK_TOKENS) -> Iterator[MooncakeRequest]:
    """The same from lines that are already in memory."""
    return _requests(parse_records(lines), Blocks(block_size), PLAIN, Names())


def mooncake_requests(path: str, reading: Reading) -> Requests:
    """The requests of a file in the common form."""
    blocks = file_blocks(path, reading.block_size)
    found = Requests(path, "mooncake", blocks.size, iter(()))
    found.notes += [blocks.note] if blocks.note else []
    found.arrivals = _arrivals(found, _requests(read_records(path), blocks, reading, found.names), reading)
    return found


def _arrivals(found: Requests, requests: Iterable[MooncakeRequest], reading: Reading) -> Iterator[Arrival]:
    first, last, count, decimal = 0.0, 0.0, 0, False
    for one in requests:
        time_s = one.timestamp_ms / 1000
        first, last, count = (first if count else time_s), time_s, count + 1
        decimal = decimal or not float(one.timestamp_ms).is_integer()
        yield Arrival(one.place, time_s, one.input_length, one.output_length, one.hash_ids, one.session_id)
    found.notes += found.names.kinds.notes
    since_1970 = next((unit for unit, most in EPOCH_UNITS.items() if 10**9 <= first * 1000 < most), "")
    if (decimal or since_1970 == "s") and count - 1 > CROWDED_PER_S * (last - first) > 0 and count > 9:
        found.notes.append(
            f"{count:,} requests in {last - first:.3g} s, read as milliseconds: if its times are seconds, "
            "give --time-unit s"
        )
    if since_1970 in ("us", "ns") and reading.time_unit is None:
        found.notes.append(
            f"its times, read as milliseconds, look like times since 1970 in {since_1970}: if they are, give "
            f"--time-unit {since_1970}"
        )


def file_blocks(path: str | Path, given: int | None) -> Blocks:
    """How a file counts its blocks: of the given size, else of that in a header record, else as its
    lines tell.

    Raises:
        TraceError: the file cannot be read, or several sizes fit its lines.
    """
    first = next(read_records(path), None)
    if given is None and first is not None and is_header(first):
        given = first.whole("block_size", least=1, most=2**20, default=None)
    return blocks_of(place_of(path), _lengths(read_records(path)), BLOCK_TOKENS, given)


def is_header(fields: Fields) -> bool:
    """Whether a record describes the file, and no request."""
    return not any(key in fields.record for key in REQUEST_KEYS)


def without_header(records: Iterable[Fields]) -> Iterator[Fields]:
    """The records, without a first one that describes the file."""
    rest = iter(records)
    first = next(rest, None)
    if first is None:
        return
    yield from rest if is_header(first) else chain([first], rest)


def _lengths(records: Iterable[Fields]) -> Iterator[tuple[int, int]]:
    for fields in without_header(records):
        ids = fields.record.get("hash_ids")
        if isinstance(ids, list):
            yield fields.tokens("input_length"), len(ids)


def _requests(
    records: Iterable[Fields], blocks: Blocks, reading: Reading, names: Names
) -> Iterator[MooncakeRequest]:
    rest = without_header(records)
    plain: list[Fields] = []

    def streamed() -> Iterator[MooncakeRequest]:
        for fields in rest:
            if "session_id" in fields.record or "delay" in fields.record:
                plain.append(fields)
                return
            yield _request(fields, blocks, names, reading, fields.number("timestamp"))

    ordered = chain(streamed(), _sessions(plain, rest, blocks, names, reading))
    return in_order(ordered, lambda one: one.timestamp_ms, _runs_back, reading)


def _runs_back(one: MooncakeRequest, last: float) -> Exception:
    problem = f"{one.timestamp_ms:g} ms is before {last:g} ms"
    return one.place.error(problem, f"sort the file by timestamp, or {SORT}", "timestamp")


def _sessions(
    first: list[Fields], rest: Iterable[Fields], blocks: Blocks, names: Names, reading: Reading
) -> Iterator[MooncakeRequest]:
    """The rows from the first one of a session on, in order of time; rows that state a time are in
    order of it, rows of a session in order of turns.
    """
    ends: dict[str, float] = {}
    found: list[MooncakeRequest] = []
    stated = 0.0
    for fields in chain(first, rest):
        session = str(fields.take("session_id", ""))
        start = fields.number("timestamp", default=None)
        if start is None and session in ends:
            delay = reading.seconds(fields.number("delay", default=0), "ms")
            start = (ends[session] + delay) * 1000
            one = replace(_request(fields, blocks, names, PLAIN, 0), timestamp_ms=start, session_id=session)
        else:
            one = _request(fields, blocks, names, reading, fields.number("timestamp"))
            one = replace(one, session_id=session)
            stated = forward(one, one.timestamp_ms, stated, _runs_back, reading)
        if session:
            ends[session] = one.timestamp_ms / 1000 + call_seconds(one.output_length or 0)
        found.append(one)
    yield from sorted(found, key=lambda one: one.timestamp_ms)


def _request(fields: Fields, blocks: Blocks, names: Names, reading: Reading, start: float) -> MooncakeRequest:
    tokens = fields.tokens("input_length")
    ids = None
    if fields.record.get("hash_ids") is not None:
        ids = names.taken(fields, "hash_ids")
        blocks.check(fields, "hash_ids", tokens, len(ids))
    start_ms = start if reading.time_unit in (None, "ms") else reading.seconds(start, "ms") * 1000
    return MooncakeRequest(
        start_ms, tokens, fields.tokens("output_length", default=None), ids, "", fields.place
    )

"""Qwen-Bailian traces: one request a line, ids of 16-token blocks that name the block's content
only.

Equal content under different prefixes has equal ids, so counting equal ids as hits overstates them:
a cached block is reusable only after the same blocks. `chain_ids` are the ids chained again, one
per (parent chain, content). Copies of the format leave out the type, the turn, or the parent of a
first turn, and write ids as texts or of blocks of another size."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from kv_cache_rl.traces.blocks import Blocks, Kinds, blocks_of, chain, opaque
from kv_cache_rl.traces.errors import Place, place_of
from kv_cache_rl.traces.fields import Fields, shown
from kv_cache_rl.traces.lines import Line
from kv_cache_rl.traces.reading import PLAIN, Reading, located
from kv_cache_rl.traces.records import parse_records, read_records
from kv_cache_rl.traces.requests import SORT, Arrival, Requests, in_order

BLOCK_TOKENS = 16
ROOT = -1
LINK_RECORDS = 10_000  # so many are looked at for one that follows another

SPARSE_S = 10.0
"""Whole times that are further apart than this on average are probably milliseconds."""

ChatId = int | str


@dataclass(frozen=True, slots=True)
class BailianRequest:
    """One request."""

    chat_id: ChatId
    parent_chat_id: ChatId  # -1: the first turn
    timestamp_s: float
    input_length: int  # tokens
    output_length: int | None  # tokens; None: the file does not say
    kind: str  # "text" | "search" | "image" | "file" | "" (not recorded)
    turn: int  # 0: not recorded
    hash_ids: tuple[Hashable, ...] | None  # content ids as in the file; None: none
    chain_ids: tuple[int, ...] | None  # same length; numbered from 0 in order of first appearance
    place: Place = field(default=Place(""), compare=False)


def read_bailian(path: str | Path, *, block_size: int | None = None) -> Iterator[BailianRequest]:
    """The requests of a file, in its order, which must be the order of time.

    The block size is told from the file if not given. Raises TraceError at the first line that is
    not a request of this format."""
    name, reading = located(path)
    return _requests(read_records(name), file_blocks(name, block_size or reading.block_size), reading)


def parse_bailian(lines: Iterable[Line], *, block_size: int = BLOCK_TOKENS) -> Iterator[BailianRequest]:
    """The same from lines that are already in memory."""
    return _requests(parse_records(lines), Blocks(block_size, None), PLAIN)


def file_blocks(path: str | Path, given: int | None) -> Blocks:
    """How a file counts its blocks: of the given size, else as its lines tell.

    Of the published 16-token blocks the last, partial one may be left out in any line.

    Raises:
        TraceError: the file cannot be read, or several sizes fit its lines.
    """

    def lengths() -> Iterator[tuple[int, int]]:
        for fields in read_records(path):
            ids = fields.record.get("hash_ids")
            if isinstance(ids, list):
                yield fields.tokens("input_length"), len(ids)

    found = blocks_of(place_of(path), lengths(), BLOCK_TOKENS, given)
    return Blocks(BLOCK_TOKENS, None) if found.size == BLOCK_TOKENS else found


def bailian_requests(path: str, reading: Reading) -> Requests:
    """The requests of a file in the common form: a chat and its follow-ups are one session."""
    blocks = file_blocks(path, reading.block_size)
    linked = any(_parent(fields) != ROOT for fields in islice(read_records(path), LINK_RECORDS))
    found = Requests(path, "bailian", blocks.size, iter(()), notes=[blocks.note] if blocks.note else [])
    requests = _noted(_requests(read_records(path), blocks, reading), found.notes, reading)
    found.arrivals = _arrivals(requests, linked)
    return found


def _noted(
    requests: Iterable[BailianRequest], notes: list[str], reading: Reading
) -> Iterator[BailianRequest]:
    """The requests themselves; `notes` gets what they make one doubt, once all are read."""
    first, last, count, whole, kinds = 0.0, 0.0, 0, True, Kinds()
    for one in requests:
        first, last, count = (one.timestamp_s if not count else first), one.timestamp_s, count + 1
        whole = whole and one.timestamp_s.is_integer()
        kinds.take(one.hash_ids or ())
        yield one
    notes += kinds.notes
    if whole and reading.time_unit is None and last - first > SPARSE_S * (count - 1) > 0:
        notes.append(
            f"{count:,} requests in {last - first:,.0f} s, read as seconds: if its times are milliseconds, "
            "give --time-unit ms"
        )


def _arrivals(requests: Iterable[BailianRequest], linked: bool) -> Iterator[Arrival]:
    """`linked`: some chat follows another; else sessions are not known, and blocks tell what
    continues what.
    """
    sessions: dict[ChatId, str] = {}
    for one in requests:
        known = sessions.get(one.parent_chat_id) if one.parent_chat_id != ROOT else None
        session = known or (f"chat {one.chat_id} on line {one.place.line}" if linked else "")
        sessions[one.chat_id] = session
        yield Arrival(one.place, one.timestamp_s, one.input_length, one.output_length, one.chain_ids, session)


def _requests(records: Iterable[Fields], blocks: Blocks, reading: Reading) -> Iterator[BailianRequest]:
    chains: dict[tuple[int, Hashable], int] = {}
    requests = (_request(fields, blocks, chains, reading) for fields in records)
    return in_order(requests, lambda one: one.timestamp_s, _runs_back, reading)


def _runs_back(one: BailianRequest, last: float) -> Exception:
    problem = f"{one.timestamp_s:g} s is before {last:g} s"
    return one.place.error(problem, f"sort the file by timestamp, or {SORT}", "timestamp")


def _request(
    fields: Fields, blocks: Blocks, chains: dict[tuple[int, Hashable], int], reading: Reading
) -> BailianRequest:
    tokens = fields.tokens("input_length")
    ids = None
    if fields.record.get("hash_ids") is not None:
        ids = opaque(fields, "hash_ids")
        blocks.check(fields, "hash_ids", tokens, len(ids))
    return BailianRequest(
        chat_id=_chat(fields, "chat_id", fields.take("chat_id")),
        parent_chat_id=_parent(fields),
        timestamp_s=reading.seconds(fields.seconds("timestamp", most=2**63), "s"),
        input_length=tokens,
        output_length=fields.tokens("output_length", default=None),
        kind=fields.text("type", default=""),
        turn=fields.whole("turn", default=0),
        hash_ids=ids,
        chain_ids=None if ids is None else chain(ids, chains),
        place=fields.place,
    )


def _parent(fields: Fields) -> ChatId:
    return _chat(fields, "parent_chat_id", fields.take("parent_chat_id", ROOT))


def _chat(fields: Fields, name: str, value: Any) -> ChatId:
    """A chat's id; "7" and 7 are the same."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise fields.error(name, f"expected an id, got {shown(value)}", "write it as an integer or a text")
    text = str(value).strip()
    return int(text) if text.lstrip("-").isdigit() and len(text) < 20 else text or ROOT

"""Tables of arrivals and lengths, without block ids: the Azure LLM inference trace and BurstGPT."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kv_cache_rl.traces.errors import Place
from kv_cache_rl.traces.fields import Fields, shown
from kv_cache_rl.traces.lines import Line, read_lines

AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
BURSTGPT_COLUMNS = ("Timestamp", "Model", "Request tokens", "Response tokens", "Total tokens", "Log Type")
STAMP = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:([+-])(\d\d):(\d\d)|Z)?")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class AzureRequest:
    """One request of the Azure LLM inference trace (CC-BY-4.0)."""

    timestamp_ns: int  # since 1970, UTC; the source writes 100 ns steps
    context_tokens: int
    generated_tokens: int


@dataclass(frozen=True, slots=True)
class BurstGPTRequest:
    """One request of BurstGPT."""

    timestamp_s: float  # since the start of the trace
    session_id: str  # "" in the first edition, which has none
    elapsed_s: float | None  # None in the first edition
    model: str
    request_tokens: int
    response_tokens: int  # 0: the call failed
    total_tokens: int
    log_type: str


def read_azure(path: str | Path) -> Iterator[AzureRequest]:
    """The rows of a file, in its order, which must be the order of time.

    Raises:
        TraceError: at the first bad row.
    """
    return parse_azure(read_lines(path))


def read_burstgpt(path: str | Path) -> Iterator[BurstGPTRequest]:
    """The rows of a file, in its order, which must be the order of time.

    Raises:
        TraceError: at the first bad row.
    """
    return parse_burstgpt(read_lines(path))


def parse_azure(lines: Iterable[Line]) -> Iterator[AzureRequest]:
    """The same from lines that are already in memory."""
    last = 0
    for fields in _rows(lines, AZURE_COLUMNS):
        stamp = _nanoseconds(fields, "TIMESTAMP")
        if stamp < last:
            raise fields.error(
                "TIMESTAMP", "the row is older than the one before it", "sort the file by TIMESTAMP"
            )
        last = stamp
        yield AzureRequest(stamp, _count(fields, "ContextTokens"), _count(fields, "GeneratedTokens"))


def parse_burstgpt(lines: Iterable[Line]) -> Iterator[BurstGPTRequest]:
    """The same from lines that are already in memory."""
    last = 0.0
    for fields in _rows(lines, BURSTGPT_COLUMNS):
        stamp = _seconds(fields, "Timestamp")
        if stamp < last:
            raise fields.error(
                "Timestamp", "the row is older than the one before it", "sort the file by Timestamp"
            )
        last = stamp
        elapsed = fields.text("Elapsed time", default="")
        yield BurstGPTRequest(
            timestamp_s=stamp,
            session_id=fields.text("Session ID", default=""),
            elapsed_s=_seconds(fields, "Elapsed time") if elapsed else None,
            model=fields.text("Model"),
            request_tokens=_count(fields, "Request tokens"),
            response_tokens=_count(fields, "Response tokens"),
            total_tokens=_count(fields, "Total tokens"),
            log_type=fields.text("Log Type"),
        )


def cells_of(place: Place, text: str) -> list[str]:
    """The cells of one line of comma-separated values."""
    try:
        return [cell.strip() for cell in next(csv.reader([text], strict=True))]
    except csv.Error as error:
        raise place.error(f"the row cannot be read ({error})", "restore or delete this line") from None


def _rows(lines: Iterable[Line], needed: tuple[str, ...]) -> Iterator[Fields]:
    header: list[str] = []
    rows = 0
    place = Place("")
    for place, text in lines:
        cells = cells_of(place, text)
        if not header:
            header = cells
            missing = [name for name in needed if name not in header]
            if missing:
                raise place.error(
                    "the column is missing from the header", f"expected {', '.join(needed)}", missing[0]
                )
            continue
        if len(cells) != len(header):
            problem = f"{len(cells)} cells under {len(header)} columns (cut off?)"
            raise place.error(problem, "restore or delete this line")
        rows += 1
        yield Fields(dict(zip(header, cells, strict=True)), place)
    if not rows:
        raise Place(place.path).error("the table has a header and no rows", "give at least one request")


def _count(fields: Fields, name: str) -> int:
    text = fields.text(name)
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise fields.error(name, f"expected a whole number of tokens, got {shown(text)}", "correct the cell")
    return int(text)


def _seconds(fields: Fields, name: str) -> float:
    text = fields.text(name)
    if not re.fullmatch(r"[0-9]{1,18}(\.[0-9]*)?", text):
        raise fields.error(name, f"expected seconds, not negative, got {shown(text)}", "correct the cell")
    return float(text)


def _nanoseconds(fields: Fields, name: str) -> int:
    text = fields.text(name)
    match = STAMP.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        moment = datetime.fromisoformat(f"{match[1]}T{match[2]}+00:00")
    except ValueError:
        remedy = "write it as 2023-11-16 18:17:03.9799600"
        raise fields.error(name, f"expected a date and time, got {shown(text)}", remedy) from None
    offset = int(match[5] or 0) * 3600 + int(match[6] or 0) * 60
    seconds = (moment - EPOCH) // timedelta(seconds=1) - (offset if match[4] == "+" else -offset)
    return seconds * 10**9 + int((match[3] or "").ljust(9, "0"))

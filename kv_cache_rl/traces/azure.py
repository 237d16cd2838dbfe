"""The Azure LLM inference traces of 2023, 2024 and 2025 (CC-BY-4.0): a table of moments and
lengths, without block ids and without users."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kv_cache_rl.traces.errors import Place
from kv_cache_rl.traces.lines import Line, read_lines
from kv_cache_rl.traces.reading import PLAIN, Reading, located
from kv_cache_rl.traces.requests import SORT, Arrival, Requests, in_order
from kv_cache_rl.traces.tables import clock_of, rows

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


@dataclass(frozen=True, slots=True)
class AzureRequest:
    """One request."""

    timestamp_ns: int  # since 1970, UTC; the source writes 100 ns steps
    context_tokens: int
    generated_tokens: int
    place: Place = field(default=Place(""), compare=False)


def read_azure(path: str | Path) -> Iterator[AzureRequest]:
    """The rows of a file, in its order, which must be the order of time.

    Raises TraceError at the first bad row.
    """
    name, reading = located(path)
    return parse_azure(read_lines(name), reading)


def parse_azure(
    lines: Iterable[Line], reading: Reading = PLAIN, notes: list[str] | None = None
) -> Iterator[AzureRequest]:
    """The same from lines that are already in memory; `notes` gets what was assumed, once all are read."""
    requests = _rows(lines, reading, notes if notes is not None else [])
    return in_order(requests, lambda one: one.timestamp_ns, _runs_back, reading)


def _rows(lines: Iterable[Line], reading: Reading, notes: list[str]) -> Iterator[AzureRequest]:
    clock, found = clock_of(rows(lines, COLUMNS), "TIMESTAMP", reading)
    for row in found:
        yield AzureRequest(
            row.nanoseconds("TIMESTAMP", reading, clock),
            row.tokens("ContextTokens"),
            row.tokens("GeneratedTokens"),
            row.place,
        )
    notes += clock.notes


def _runs_back(one: AzureRequest, last: float) -> Exception:
    problem = "the row is older than the one before it"
    return one.place.error(problem, f"sort the file by TIMESTAMP, or {SORT}", "TIMESTAMP")


def azure_requests(path: str, reading: Reading) -> Requests:
    """The requests of a file in the common form, their clock from the first one on."""
    found = Requests(path, "azure", 0, iter(()))
    found.arrivals = _arrivals(parse_azure(read_lines(path), reading, found.notes))
    return found


def _arrivals(requests: Iterable[AzureRequest]) -> Iterator[Arrival]:
    first: int | None = None
    for one in requests:
        first = one.timestamp_ns if first is None else first
        yield Arrival(one.place, (one.timestamp_ns - first) / 1e9, one.context_tokens, one.generated_tokens)

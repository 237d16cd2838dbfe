"""BurstGPT: a table of times and lengths, without block ids. Its later editions name the session of
what was asked in conversations, so that a row continues the one before it; calls that failed have
no response tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kv_cache_rl.traces.errors import Place
from kv_cache_rl.traces.lines import Line, read_lines
from kv_cache_rl.traces.reading import PLAIN, Reading, located
from kv_cache_rl.traces.requests import FAILED, SORT, Arrival, Requests, in_order
from kv_cache_rl.traces.tables import Row, rows

COLUMNS = ("Timestamp", "Request tokens", "Response tokens")
MORE_COLUMNS = ("Session ID", "Elapsed time", "Model", "Total tokens", "Log Type")


@dataclass(frozen=True, slots=True)
class BurstGPTRequest:
    """One request."""

    timestamp_s: float  # since the start of the trace
    session_id: str  # "" where it has none
    elapsed_s: float | None  # None where the file does not say, or says less than 0
    model: str
    request_tokens: int
    response_tokens: int  # 0: the call failed
    total_tokens: int  # the sum of both
    log_type: str
    place: Place = field(default=Place(""), compare=False)

    @property
    def failed(self) -> bool:
        """Whether the call got no answer; no command counts it as traffic."""
        return self.response_tokens == 0


def read_burstgpt(path: str | Path) -> Iterator[BurstGPTRequest]:
    """The rows of a file, in its order, which must be the order of time.

    Raises TraceError at the first bad row.
    """
    name, reading = located(path)
    return parse_burstgpt(read_lines(name), reading)


def parse_burstgpt(lines: Iterable[Line], reading: Reading = PLAIN) -> Iterator[BurstGPTRequest]:
    """The same from lines that are already in memory."""
    requests = (_request(row, reading) for row in rows(lines, COLUMNS, MORE_COLUMNS))
    return in_order(requests, lambda one: one.timestamp_s, _runs_back, reading)


def _runs_back(one: BurstGPTRequest, last: float) -> Exception:
    problem = "the row is older than the one before it"
    return one.place.error(problem, f"sort the file by Timestamp, or {SORT}", "Timestamp")


def _request(row: Row, reading: Reading) -> BurstGPTRequest:
    elapsed = row.number_or_none("Elapsed time")
    asked, answered = row.tokens("Request tokens"), row.tokens("Response tokens")
    return BurstGPTRequest(
        timestamp_s=row.seconds_in("Timestamp", reading),
        session_id=row.cell("Session ID", ""),
        elapsed_s=elapsed if elapsed is not None and elapsed >= 0 else None,
        model=row.cell("Model", ""),
        request_tokens=asked,
        response_tokens=answered,
        total_tokens=asked + answered,
        log_type=row.cell("Log Type", ""),
        place=row.place,
    )


def burstgpt_requests(path: str, reading: Reading) -> Requests:
    """The requests of a file that got an answer, in the common form."""
    found = Requests(path, "burstgpt", 0, iter(()))
    found.arrivals = _answered(found, parse_burstgpt(read_lines(path), reading))
    return found


def _answered(found: Requests, requests: Iterable[BurstGPTRequest]) -> Iterator[Arrival]:
    for one in requests:
        if one.failed:
            found.left_out[FAILED] += 1
            continue
        yield Arrival(
            one.place, one.timestamp_s, one.request_tokens, one.response_tokens, None, one.session_id
        )

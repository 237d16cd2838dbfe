"""Vidur's processed traces: a table of arrival times in seconds and lengths, without block ids or
users.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kv_cache_rl.traces.lines import read_lines
from kv_cache_rl.traces.reading import Reading, located
from kv_cache_rl.traces.requests import SORT, Arrival, Requests, in_order
from kv_cache_rl.traces.tables import Row, rows

COLUMNS = ("num_prefill_tokens", "num_decode_tokens")
MORE_COLUMNS = ("arrived_at",)


def read_vidur(path: str | Path) -> Iterator[Arrival]:
    """The rows of a file, in its order, which must be the order of time.

    Raises TraceError at the first bad row.
    """
    return vidur_requests(*located(path)).arrivals


def vidur_requests(path: str, reading: Reading) -> Requests:
    """The requests of a file in the common form; without the column arrived_at none has a time."""
    found = (_arrival(row, reading) for row in rows(read_lines(path), COLUMNS, MORE_COLUMNS))
    return Requests(path, "vidur", 0, in_order(found, lambda one: one.time_s or 0.0, _runs_back, reading))


def _runs_back(one: Arrival, last: float) -> Exception:
    problem = f"{one.time_s:g} s is before {last:g} s"
    return one.place.error(problem, f"sort the file by arrived_at, or {SORT}", "arrived_at")


def _arrival(row: Row, reading: Reading) -> Arrival:
    time_s = row.seconds_in("arrived_at", reading) if "arrived_at" in row.record else None
    return Arrival(row.place, time_s, row.tokens("num_prefill_tokens"), row.tokens("num_decode_tokens"))

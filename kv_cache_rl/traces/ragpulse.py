"""RAGPulse: one request a line, with the ids of the parts of its prompt (system prompt, passages,
history, web search, question) and a session. Parts have any length and the trace does not say
which, so what a cache of blocks would find cannot be told: lengths, times and sessions are read,
ids are not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kv_cache_rl.traces.fields import Fields
from kv_cache_rl.traces.reading import Reading, located
from kv_cache_rl.traces.records import read_records
from kv_cache_rl.traces.requests import SORT, Arrival, Requests, in_order


def read_ragpulse(path: str | Path) -> Iterator[Arrival]:
    """The requests of a file, in its order, which must be the order of time.

    Raises TraceError at the first bad line.
    """
    return ragpulse_requests(*located(path)).arrivals


def ragpulse_requests(path: str, reading: Reading) -> Requests:
    """The requests of a file in the common form."""
    arrivals = (_arrival(fields, reading) for fields in read_records(path))
    found = Requests(
        path, "ragpulse", 0, in_order(arrivals, lambda one: one.time_s or 0.0, _runs_back, reading)
    )
    found.notes.append("the parts of a prompt have ids but no lengths: hits cannot be counted, sessions can")
    return found


def _runs_back(one: Arrival, last: float) -> Exception:
    problem = f"{one.time_s:g} s is before {last:g} s"
    return one.place.error(problem, f"sort the file by timestamp, or {SORT}", "timestamp")


def _arrival(fields: Fields, reading: Reading) -> Arrival:
    value = fields.take("timestamp")
    if isinstance(value, str) and value.strip().replace(".", "", 1).isdigit():
        fields = Fields(fields.record | {"timestamp": float(value)}, fields.place)
    return Arrival(
        place=fields.place,
        time_s=reading.seconds(fields.number("timestamp"), "s"),
        input_tokens=fields.tokens("input_length"),
        output_tokens=fields.tokens("output_length", default=None),
        session=fields.text("session_id", default=""),
    )

"""TraceLab's tables of agent sessions: a session's first round has an arrival time, each later one
a wait after the end of the round before (`tool_wait_after_ms` of that round). Rounds follow each
other by `round_idx`, without it as they stand. A round's prompt is what the session holds
(prefix_len), which is what can be found of it, and what is new (input_len). Ends are not recorded, so
a call is taken to last `call_seconds`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from kv_cache_rl.traces.calls import call_seconds
from kv_cache_rl.traces.fields import shown
from kv_cache_rl.traces.lines import read_lines
from kv_cache_rl.traces.reading import Reading, located
from kv_cache_rl.traces.requests import SORT, Arrival, Requests, by_time, forward, limited
from kv_cache_rl.traces.tables import Row, rows

COLUMNS = ("session_id", "arrival_time", "prefix_len", "input_len", "output_len")
MORE_COLUMNS = ("tool_wait_after_ms", "round_idx")
Round = tuple[Row, float | None]
"""A row, and the time that it states."""


def read_tracelab(path: str | Path) -> Iterator[Arrival]:
    """The rounds of a file in order of time. Raises TraceError at the first bad row."""
    return tracelab_requests(*located(path)).arrivals


def tracelab_requests(path: str, reading: Reading) -> Requests:
    """The rounds of a file in the common form, in order of time."""
    return Requests(path, "tracelab", 0, limited(_rounds(path, reading), reading))


def _rounds(path: str, reading: Reading) -> Iterator[Arrival]:
    sessions: dict[str, list[Round]] = defaultdict(list)
    last = 0.0
    for row in rows(read_lines(path), COLUMNS, MORE_COLUMNS):
        stated = None
        if row.cell("arrival_time") is not None:
            stated = last = forward(row, row.seconds_in("arrival_time", reading), last, _runs_back, reading)
        sessions[row.cell("session_id", "")].append((row, stated))
    found: list[Arrival] = []
    for session, rounds in sessions.items():
        next_s: float | None = None
        for row, stated in _in_order(rounds):
            start = next_s if stated is None else stated
            if start is None:
                start = row.seconds_in("arrival_time", reading)  # says that it is missing
            output = row.tokens("output_len")
            wait_ms = max(0.0, float(row.real("tool_wait_after_ms", default=0)))
            next_s = start + call_seconds(output) + wait_ms / 1000
            held = row.tokens("prefix_len")
            prompt = held + row.tokens("input_len")
            found.append(Arrival(row.place, start, prompt, output, None, session, held))
    yield from sorted(found, key=by_time)


def _in_order(rounds: list[Round]) -> list[Round]:
    """The rounds of a session by their numbers, where any has one."""
    if all(row.cell("round_idx") is None for row, _ in rounds):
        return rounds
    return sorted(rounds, key=lambda one: one[0].whole("round_idx"))


def _runs_back(row: Row, last: float) -> Exception:
    problem = f"{shown(row.cell('arrival_time'))} s is before {last:g} s"
    return row.error("arrival_time", problem, f"put the first rounds in order of time, or {SORT}")

"""What is in a trace file, and which commands can use it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kv_cache_rl.traces.claude_code import distinct, read_sessions
from kv_cache_rl.traces.fields import LARGEST
from kv_cache_rl.traces.formats import FORMATS, detect, requests_of
from kv_cache_rl.traces.lab import checked_header, lab_pages
from kv_cache_rl.traces.libcachesim import NO_BYTES, Access
from kv_cache_rl.traces.reading import Reading, located
from kv_cache_rl.traces.records import read_records
from kv_cache_rl.traces.requests import Requests
from kv_cache_rl.traces.runs import Run, runs_of

LAB, SERVING, PLAN, WINDOWS = "hierarchy", "serving simulate", "stability plan", "scenarios from-trace"
COMMANDS = (LAB, SERVING, PLAN, WINDOWS)


@dataclass(slots=True)
class Summary:
    """Counts of a trace file; None: the file does not say."""

    path: str
    format: str
    requests: int = 0
    """Requests that count as traffic; page accesses where the file holds those."""
    sessions: int | None = None
    """Named sessions or chats."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    block_size: int | None = None
    """Tokens in a block."""
    blocks: int | None = None
    """Different blocks, or pages."""
    block_accesses: int | None = None
    span_s: float | None = None
    """Seconds from the first request to the last; of the longest session where each has its own
    clock.
    """
    rate_per_s: float | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    """Reason → requests that are in the file and do not count."""
    notes: list[str] = field(default_factory=list)
    uses: dict[str, str] = field(default_factory=dict)
    """Command → "" if it can use the file, else why it cannot."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def summary_of(path: str | Path, reading: Reading | None = None) -> Summary:
    """What is in a file of any format. Raises TraceError where it cannot be read."""
    name, how = located(path, reading)
    format = detect(how.named(name))
    if format == "claude-code":
        return _sessions(name, how)
    if format == "lab":
        return _lab(name, how)
    found = _pages(name, how, format)
    return found or _requests(name, requests_of(name, how))


def _sessions(path: str, reading: Reading) -> Summary:
    left_out: Counter[str] = Counter()
    found = Summary(
        path, "claude-code", sessions=0, input_tokens=0, output_tokens=0, blocks=0, block_accesses=0
    )
    sizes: Counter[int] = Counter()
    shared = set[Run]()
    longest = 0.0
    for session in distinct(read_sessions(reading.named(path)), left_out):
        calls = session.all_calls
        found.sessions = (found.sessions or 0) + 1
        found.requests += len(calls)
        found.input_tokens = (found.input_tokens or 0) + sum(call.input_tokens for call in calls)
        found.output_tokens = (found.output_tokens or 0) + sum(call.output_tokens for call in calls)
        runs = [run for call in calls for run in call.runs]
        found.block_accesses = (found.block_accesses or 0) + sum(length for _, length in runs)
        if session.is_global:
            shared.update(runs)
        else:
            found.blocks = (found.blocks or 0) + _covered(runs)
        longest = max(longest, max(session.starts) - session.requests[0].t_s)
        sizes[session.block_size] += 1
    found.blocks = (found.blocks or 0) + _covered(shared)
    found.block_size = next(iter(sizes)) if len(sizes) == 1 else None
    found.span_s, found.left_out = longest, dict(left_out)
    found.notes.append("every session has a clock of its own: stability plan needs --users N or --rate R")
    found.uses = dict.fromkeys(COMMANDS, "")
    if len(sizes) > 1:
        found.uses[LAB] = f"its sessions have blocks of {sorted(sizes)} tokens"
    return found


def _covered(runs: Iterable[Run]) -> int:
    """How many different ids the runs name."""
    total, until = 0, None
    for first, length in sorted(set(runs)):
        start = first if until is None else max(first, until + 1)
        total += max(0, first + length - start)
        until = first + length - 1 if until is None else max(until, first + length - 1)
    return total


def _pages(path: str, reading: Reading, format: str) -> Summary | None:
    if FORMATS[format].requests is not None:
        return None
    found = Summary(path, format, block_accesses=0)
    pages: set[int | str] = set()
    first = last = 0.0
    access: Access
    for access in FORMATS[format].read(reading.named(path)):
        if not access.bytes:
            found.left_out[NO_BYTES] = found.left_out.get(NO_BYTES, 0) + 1
            continue
        first = first if found.requests else access.time_s
        last = access.time_s
        found.requests += 1
        pages.add(access.object)
    found.blocks, found.block_accesses, found.span_s = len(pages), found.requests, last - first
    found.uses = dict.fromkeys(COMMANDS, "it holds page accesses, no requests") | {LAB: ""}
    return found


def _lab(path: str, reading: Reading) -> Summary:
    records = read_records(path)
    if checked_header(next(records)).record["kind"] == "pages":
        rest = list(lab_pages(records, reading))
        pages = {one.whole("page", most=LARGEST) for one in rest}
        steps = [one.seconds("step") for one in rest]
        found = Summary(path, "lab", len(rest), blocks=len(pages), block_accesses=len(rest))
        found.span_s = steps[-1] - steps[0] if steps else None
        found.uses = dict.fromkeys(COMMANDS, "it holds page accesses, no requests") | {LAB: ""}
        return found
    found = _requests(path, requests_of(path, reading))
    found.uses[LAB] = found.uses[LAB] if found.blocks else "no request names a block"
    return found


def _requests(path: str, requests: Requests) -> Summary:
    missing: Counter[str] = Counter()
    sessions, runs = set[str](), set[Run]()
    found = Summary(path, requests.format, input_tokens=0, output_tokens=0, block_accesses=0)
    first = last = 0.0
    for one in requests.arrivals:
        if one.time_s is None:
            missing["arrival times"] += 1
        else:
            first, last = (first if found.requests else one.time_s), one.time_s
        if one.output_tokens is None:
            missing["output lengths"] += 1
        if one.ids is None:
            missing["block ids"] += 1
        if one.session:
            sessions.add(one.session)
        found.requests += 1
        found.input_tokens = (found.input_tokens or 0) + one.input_tokens
        found.output_tokens = (found.output_tokens or 0) + (one.output_tokens or 0)
        found.block_accesses = (found.block_accesses or 0) + len(one.ids or ())
        runs.update(runs_of(one.ids or ()))
    found.left_out, found.notes = dict(requests.left_out), requests.notes
    found.sessions = len(sessions) or None
    found.blocks = _covered(runs)
    if missing["block ids"] == found.requests:
        found.blocks = found.block_accesses = None
    else:
        found.block_size = requests.block_tokens
    if missing["output lengths"] == found.requests:
        found.output_tokens = None
    if not missing["arrival times"]:
        found.span_s = last - first
        found.rate_per_s = (found.requests - 1) / found.span_s if found.span_s else None
        if not found.span_s and found.output_tokens is not None:
            found.notes.append("its requests arrive at one moment: stability plan needs --rate R")
    found.uses = _uses(found, missing)
    return found


def _uses(found: Summary, missing: Counter[str]) -> dict[str, str]:
    def lacks(*needed: str) -> str:
        gaps = [
            f"{missing[one]:,} of {found.requests:,} requests have no {one}" for one in needed if missing[one]
        ]
        return "; ".join(gaps) if found.requests else "no request in it got an answer"

    lengths = lacks("output lengths")
    if not lengths and missing["arrival times"]:
        found.notes.append("it has no arrival times: stability plan needs --rate R")
    blocks = lacks("block ids", "arrival times")
    continued = (
        ""
        if found.sessions or not missing["block ids"]
        else "neither blocks nor sessions say what continues what"
    )
    return {
        LAB: blocks,
        SERVING: lacks("arrival times", "output lengths"),
        PLAN: lengths,
        WINDOWS: lacks("arrival times", "output lengths") or continued,
    }

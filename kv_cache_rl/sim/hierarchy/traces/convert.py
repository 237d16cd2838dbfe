"""Any trace file as one of the lab's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kv_cache_rl.files import same_file
from kv_cache_rl.sim.hierarchy.traces.lab_file import save
from kv_cache_rl.sim.hierarchy.traces.load import LOADERS, load_trace
from kv_cache_rl.traces.errors import TraceError, place_of
from kv_cache_rl.traces.files import refuse_within, sources
from kv_cache_rl.traces.formats import FORMATS, detect, requests_of
from kv_cache_rl.traces.lab import write_requests
from kv_cache_rl.traces.reading import Reading, located
from kv_cache_rl.traces.summary import summary_of

ONE_CLOCK = (
    "sessions start uniformly over 8 hours, as in the lab, the calls of sub-agents among those of their "
    "session: serving and scenarios, which tell them apart, want the original"
)
"""What becomes of Claude Code sessions, each of which has a clock of its own."""


def convert(path: str | Path, out: str | Path) -> tuple[int, list[str]]:
    """Writes the trace in the lab's format, rows whose times run back put in order, and returns how
    many requests, and what else was done.

    Requests that name no blocks are written without any, the others with theirs: stability plan and
    serving simulate read them, the lab does not. Claude Code sessions are placed on one clock, as the
    lab does.

    Raises:
        TraceError: the file cannot be read, or `out` would be one of the files that are read.
    """
    file, reading = located(path)
    if any(same_file(source, out) for source in sources(file)):
        raise place_of(file).error(
            "it is read, and the result would be written over it", "give another --out"
        )
    refuse_within(file, Path(out))
    format = detect(reading.named(file))
    reading = replace(reading, format=format, sort=True)
    notes = [ONE_CLOCK] if format == "claude-code" else []
    unnamed = _without_blocks(file, reading) if format in LOADERS else None
    if unnamed == 0:
        trace = load_trace(reading.named(file), decode_writes=False)
        save(trace, out)
        return trace.requests, [*notes, *_said(file, reading)]
    found = requests_of(file, reading)
    count = write_requests(out, Path(file).name, found.timed(), max(1, found.block_tokens))
    left_out = [f"{number:,} left out: {reason}" for reason, number in found.left_out.items()]
    return count, [
        *left_out,
        *found.notes,
        f"{'its' if unnamed in (None, count) else f'{unnamed:,} of {count:,}'} requests name no blocks: "
        "the hierarchy lab cannot replay them",
    ]


def _without_blocks(path: str, reading: Reading) -> int:
    """How many requests of a file name no blocks, though its format can; 0 where its loader says what is
    wrong with it."""
    if FORMATS[reading.format or ""].requests is None:
        return 0
    try:
        return sum(one.ids is None for one in requests_of(path, reading).arrivals)
    except TraceError:
        return 0


def _said(path: str, reading: Reading) -> list[str]:
    """What was left out and assumed while reading a file that holds blocks."""
    found = summary_of(path, reading)
    left_out = [f"{number:,} left out: {reason}" for reason, number in found.left_out.items()]
    return [*left_out, *(note for note in found.notes if "--users" not in note)]

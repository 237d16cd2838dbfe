"""The project's own trace files (sim/hierarchy/traces/lab_file.py says what is in them): their header
and their requests, checked, and the requests in the common form. The lab makes columns of them."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from kv_cache_rl.files import part_of
from kv_cache_rl.traces.blocks import Blocks
from kv_cache_rl.traces.errors import Place, place_of
from kv_cache_rl.traces.fields import LARGEST, Fields, check_whole, pair_of, shown
from kv_cache_rl.traces.reading import Reading, located
from kv_cache_rl.traces.records import read_records
from kv_cache_rl.traces.requests import SORT, Arrival, Requests, in_order
from kv_cache_rl.traces.runs import Run, RunIds, runs_of

FORMAT, VERSION = "kv-cache-rl trace", 1
KINDS = ("pages", "requests")
MOST_BLOCKS = 2**31 - 2  # dense ids fit 32-bit columns; ids in files have up to 63 bits
MOST_LISTED = 2**24
"""Blocks of one prompt at most where they are followed one by one, as everywhere but in the lab."""


@dataclass(frozen=True, slots=True)
class LabRequest:
    """One request line."""

    place: Place
    time_s: float
    sequence: int | None
    input_tokens: int
    """0: not given."""
    output_tokens: int | None
    runs: tuple[Run, ...] | None
    """Its blocks from the root on; None: not known."""
    held: int | None = None
    """Leading tokens of the input that its sequence held already; None: not known."""


def is_header(fields: Fields) -> bool:
    """Whether a file's first record says that it is one of this format."""
    return fields.record.get("format") == FORMAT


def checked_header(header: Fields) -> Fields:
    """The header itself. Raises TraceError where it is none of this format."""
    if header.text("format") != FORMAT:
        raise header.error("format", f"got {shown(header.record['format'])}", f"expected {FORMAT!r}")
    if header.whole("version") != VERSION:
        raise header.error(
            "version", f"version {header.record['version']}", f"only version {VERSION} is known"
        )
    if header.text("kind") not in KINDS:
        raise header.error("kind", f"got {shown(header.record['kind'])}", f"use one of {', '.join(KINDS)}")
    header.whole("block_tokens", least=1)
    header.whole("blocks", least=1, most=MOST_BLOCKS, default=None)
    sizes = header.take("page_bytes", 0)
    if isinstance(sizes, list):
        for at, size in enumerate(sizes):
            check_whole(header, f"page_bytes[{at}]", size, 1, LARGEST)
        if len(sizes) != header.record.get("blocks"):
            raise header.error(
                "page_bytes", f"{len(sizes)} sizes", "give blocks, and one size for each of them"
            )
    else:
        check_whole(header, "page_bytes", sizes, 0, LARGEST)
    return header


def lab_lines(header: Fields, records: Iterable[Fields], reading: Reading) -> Iterator[LabRequest]:
    """The requests under a header of theirs, in order of time. Raises TraceError at the first bad one."""
    size, blocks = header.whole("block_tokens"), header.record.get("blocks")
    most = LARGEST if blocks is None else blocks - 1
    found = (_request(fields, size, most) for fields in records)
    return in_order(found, lambda one: one.time_s, _runs_back, reading)


def lab_pages(records: Iterable[Fields], reading: Reading) -> Iterator[Fields]:
    """The page accesses under a header of theirs, in order of their steps. Raises TraceError at the first
    that runs back."""
    return in_order(records, lambda fields: fields.seconds("step"), _steps_back, reading)


def _steps_back(fields: Fields, last: float) -> Exception:
    return fields.error("step", *_back(fields.seconds("step"), last))


def _back(now: float, last: float) -> tuple[str, str]:
    return f"{now:g} comes after {last:g}", f"put the lines in order of time, or {SORT}"


def _request(fields: Fields, size: int, most: int) -> LabRequest:
    tokens, runs = fields.tokens("input_tokens", default=0), _runs(fields, most)
    if runs == () and tokens >= size:  # so earlier versions wrote requests without blocks
        runs = None
    if runs is not None and tokens:
        blocks = sum(length for _, length in runs)
        Blocks(size, None).check(fields, "runs", tokens, blocks, "block_tokens in the header")
    return LabRequest(
        place=fields.place,
        time_s=fields.seconds("time_s"),
        sequence=fields.whole("sequence", default=None),
        input_tokens=tokens,
        output_tokens=fields.tokens("output_tokens", default=None),
        runs=runs,
        held=fields.tokens("held_tokens", default=None),
    )


def _runs(fields: Fields, most: int) -> tuple[Run, ...] | None:
    if fields.take("runs", None) is None:
        return None
    runs: list[Run] = []
    for at, item in enumerate(fields.items("runs")):
        name = f"runs[{at}]"
        start, length = pair_of(fields, name, item, most)
        if start + length - 1 > most:
            problem = f"the last id is {start + length - 1}, the largest allowed {most}"
            raise fields.error(name, problem, "correct it")
        runs.append((start, length))
    return tuple(runs)


def _runs_back(one: LabRequest, last: float) -> Exception:
    return one.place.error(*_back(one.time_s, last), "time_s")


def read_lab(path: str | Path) -> Iterator[Arrival]:
    """The requests of a file.

    Raises TraceError at the first bad line, and for a file of page accesses.
    """
    return lab_requests(*located(path)).arrivals


def lab_requests(path: str, reading: Reading) -> Requests:
    """The requests of a file in the common form."""
    header = checked_header(next(read_records(path)))
    if header.text("kind") != "requests":
        raise place_of(path).error(
            "this file holds page accesses, no requests",
            "replay it in the lab: kv-cache-rl hierarchy replay",
            "kind",
        )
    size = header.whole("block_tokens")
    named = any(fields.record.get("runs") for fields in _requests_in(path))
    lines = lab_lines(header, _requests_in(path), reading)
    return Requests(path, "lab", size if named else 0, (_arrival(one, size, named) for one in lines))


def _requests_in(path: str) -> Iterator[Fields]:
    records = read_records(path)
    next(records)
    return records


def _arrival(one: LabRequest, size: int, named: bool) -> Arrival:
    """`named`: some request of the file names blocks; else there are none to follow."""
    ids = RunIds(one.runs) if named and one.runs is not None else None
    if ids is not None and ids.total > MOST_LISTED:
        problem = f"{ids.total:,} blocks, at most {MOST_LISTED:,} are followed outside the lab"
        raise one.place.error(problem, "correct it, or replay it: kv-cache-rl hierarchy replay", "runs")
    return Arrival(
        place=one.place,
        time_s=one.time_s,
        input_tokens=one.input_tokens or (size * ids.total if ids else 0),
        output_tokens=one.output_tokens,
        ids=ids,
        session="" if one.sequence is None else f"sequence {one.sequence}",
        held=one.held,
    )


def write_requests(path: str | Path, name: str, arrivals: Iterable[Arrival], block_tokens: int = 1) -> int:
    """Writes requests as a file of this format, and returns how many; the file appears whole or not
    at all. Sessions and blocks are numbered; a request that names none has none."""
    sequences: dict[str, int] = {}
    numbers: dict[int, int] = {}
    count = 0
    with written_whole(path) as file:
        header = {"format": FORMAT, "version": VERSION, "kind": "requests", "name": name}
        file.write(json.dumps(header | {"block_tokens": block_tokens}) + "\n")
        for one in arrivals:
            count += 1
            line: dict[str, Any] = {"time_s": one.time_s}
            if one.session:
                line["sequence"] = sequences.setdefault(one.session, len(sequences))
            line |= {"input_tokens": one.input_tokens, "output_tokens": one.output_tokens}
            line |= {} if one.held is None else {"held_tokens": one.held}
            if one.ids is not None:
                line["runs"] = runs_of(numbers.setdefault(block, len(numbers)) for block in one.ids)
            file.write(json.dumps(line) + "\n")
    return count


PACKERS: dict[str, Callable[[BinaryIO], Any]] = {
    ".gz": lambda file: gzip.GzipFile("", "wb", fileobj=file, mtime=0),
    ".bz2": lambda file: bz2.open(file, "wb"),
    ".xz": lambda file: lzma.open(file, "wb"),
}
"""Ending -> what packs a file, without its name and the time: the same content gives the same bytes."""


@contextmanager
def written_whole(path: str | Path) -> Generator[TextIO]:
    """A text file to write, packed as its name says, which appears once the block ends without an
    error; else nothing is left of it.

    Raises:
        TraceError: its name says that it is packed in a way that is not written here.
        OSError: it cannot be written.
    """
    out = Path(path)
    if out.suffix == ".zst":
        raise place_of(path).error(
            "Zstandard files are read, not written", "name it .gz, .bz2, .xz or .jsonl"
        )
    pack = PACKERS.get(out.suffix, nullcontext)
    with (
        part_of(out) as part,
        part.open("wb") as raw,
        pack(raw) as packed,
        TextIOWrapper(packed, encoding="utf-8") as file,
    ):
        yield file

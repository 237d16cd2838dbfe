"""The project's own trace files (sim/hierarchy/traces/lab_file.py says what is in them), as
requests: times, lengths and sequences. The lab itself reads their blocks in columns."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kv_cache_rl.files import regular
from kv_cache_rl.traces.errors import place_of
from kv_cache_rl.traces.fields import Fields
from kv_cache_rl.traces.reading import Reading, located
from kv_cache_rl.traces.records import read_records
from kv_cache_rl.traces.requests import SORT, Arrival, Requests, in_order

FORMAT, VERSION = "kv-cache-rl trace", 1


def is_header(fields: Fields) -> bool:
    """Whether a file's first record says that it is one of this format."""
    return fields.record.get("format") == FORMAT


def read_lab(path: str | Path) -> Iterator[Arrival]:
    """The requests of a file.

    Raises TraceError at the first bad line, and for a file of page accesses.
    """
    return lab_requests(*located(path)).arrivals


def lab_requests(path: str, reading: Reading) -> Requests:
    """The requests of a file in the common form; blocks are left to the lab, which holds them as
    runs.
    """
    records = read_records(path)
    header = next(records)
    if header.text("kind", default="") != "requests":
        raise place_of(path).error(
            "this file holds page accesses, no requests",
            "replay it in the lab: kv-cache-rl hierarchy replay",
            "kind",
        )
    arrivals = in_order(map(_arrival, records), lambda one: one.time_s or 0.0, _runs_back, reading)
    return Requests(path, "lab", 0, arrivals)


def _runs_back(one: Arrival, last: float) -> Exception:
    return one.place.error(
        f"{one.time_s:g} comes after {last:g}", f"put the lines in order of time, or {SORT}", "time_s"
    )


def _arrival(fields: Fields) -> Arrival:
    sequence = fields.whole("sequence", default=None)
    return Arrival(
        place=fields.place,
        time_s=fields.seconds("time_s"),
        input_tokens=fields.whole("input_tokens", default=0),
        output_tokens=fields.whole("output_tokens", default=None),
        session="" if sequence is None else f"sequence {sequence}",
    )


def write_requests(path: str | Path, name: str, arrivals: Iterable[Arrival], block_tokens: int = 1) -> int:
    """Writes requests without blocks as a file of this format, and returns how many; the file
    appears whole or not at all. Sessions are numbered; a request that names none is a sequence of
    its own."""
    sequences: dict[Any, int] = {}
    part, count = regular(f"{regular(path)}.part"), 0
    packed = str(path).endswith(".gz")
    with gzip.open(part, "wt", encoding="utf-8") if packed else open(part, "w", encoding="utf-8") as file:
        header = {
            "format": FORMAT,
            "version": VERSION,
            "kind": "requests",
            "name": name,
            "block_tokens": block_tokens,
        }
        file.write(json.dumps(header) + "\n")
        for count, one in enumerate(arrivals, 1):
            sequence = sequences.setdefault(one.session or count, len(sequences))
            line = {"time_s": one.time_s, "sequence": sequence, "input_tokens": one.input_tokens}
            file.write(json.dumps(line | {"output_tokens": one.output_tokens, "runs": []}) + "\n")
    os.replace(part, path)
    return count

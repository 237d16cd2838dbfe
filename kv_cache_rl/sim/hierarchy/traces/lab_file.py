"""The lab's own trace file: JSON Lines, a header, then a request or page access a line.

A file named .gz is compressed with gzip.

Header: {"format": "kv-cache-rl trace", "version": 1, "kind": "pages" or "requests", "name": text,
"block_tokens": tokens, "page_bytes": bytes of every page, or a list with one entry a page
(optional), "blocks": number of ids (optional)}. With `blocks` the ids are 0 ... blocks - 1 and are
used unchanged. Without it they are integers of up to 63 bits and get new, dense numbers.

* pages: {"step": 3, "page": 17, "bytes": 4096, "sequence": 0}. `bytes` is given only if the header has
  no page_bytes; all lines of a page agree. `sequence` is optional. Steps never fall. Equal steps are one
  tick, in file order.
* requests: {"time_s": 1.5, "sequence": 2, "input_tokens": 900, "output_tokens": 80,
  "runs": [[first id, length], ...]}. The runs are the blocks from the root on; an id names a block
  together with all blocks before it. Tokens are optional.
"""

from __future__ import annotations

import gzip
import json
import os
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kv_cache_rl.files import regular
from kv_cache_rl.sim.hierarchy.traces.columns import MOST_BLOCKS
from kv_cache_rl.sim.hierarchy.traces.numbering import dense_ids, dense_runs
from kv_cache_rl.sim.hierarchy.traces.trace import Trace, checked_tree, last_of, pages
from kv_cache_rl.traces.errors import place_of
from kv_cache_rl.traces.fields import LARGEST, Fields, check_whole, json_fields, shown
from kv_cache_rl.traces.lab import FORMAT, VERSION
from kv_cache_rl.traces.lines import Line, read_lines
from kv_cache_rl.traces.reading import located
from kv_cache_rl.traces.requests import limited

KINDS = ("pages", "requests")


def load_lab_file(path: str | Path) -> Trace:
    """The trace in a file of this format. Raises TraceError at the first line that is not of it."""
    path, reading = located(path)
    lines = read_lines(path)
    header = _header(*next(lines))
    trace = (_pages if header.record["kind"] == "pages" else _requests)(path, header, limited(lines, reading))
    return replace(trace, name=header.text("name", default=Path(path).name))


def save(trace: Trace, path: str | Path) -> None:
    """Writes the trace to a part file, which becomes `path` only when it is complete."""
    part = regular(f"{regular(path)}.part")
    raw = (
        gzip.open(part, "wt", encoding="utf-8")
        if str(path).endswith(".gz")
        else open(part, "w", encoding="utf-8")
    )
    with raw as lines:
        for record in _records(trace):
            lines.write(json.dumps(record) + "\n")
    os.replace(part, path)


def _records(trace: Trace) -> Iterator[dict[str, Any]]:
    named = trace.blocks if trace.writes is None else trace.writes.named
    known = trace.page_bytes
    sizes = known[:named].tolist() if isinstance(known, np.ndarray) else known
    kind = "requests" if trace.chained else "pages"
    header = {"format": FORMAT, "version": VERSION, "kind": kind, "name": trace.name}
    yield header | {"block_tokens": trace.block_tokens, "page_bytes": sizes, "blocks": named}
    for request in range(trace.requests):  # what decoding wrote follows from the tokens
        time_s, sequence = float(trace.time_s[request]), int(trace.sequence[request])
        runs = slice(trace.first_run[request], trace.first_run[request + 1])
        start, length = trace.run_start[runs].tolist(), trace.run_length[runs].tolist()
        if trace.chained:
            tokens = {name: int(getattr(trace, name)[request]) for name in ("input_tokens", "output_tokens")}
            pairs = [list(pair) for pair in zip(start, length, strict=True)]
            yield {"time_s": time_s, "sequence": sequence} | tokens | {"runs": pairs}
        else:
            yield {"step": time_s, "page": start[0], "sequence": sequence}


def _header(place: Any, text: str) -> Fields:
    header = json_fields(place, text)
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


def _pages(path: str | Path, header: Fields, lines: Iterator[Line]) -> Trace:
    blocks, sizes = header.record.get("blocks"), header.take("page_bytes", 0)
    steps, ids, sequence = array("d"), array("q"), array("q")
    bytes_of: dict[int, int] = {}
    for place, text in lines:
        fields = json_fields(place, text)
        page = fields.whole("page", most=LARGEST if blocks is None else blocks - 1)
        _forward(fields, "step", steps)
        ids.append(page)
        sequence.append(fields.whole("sequence", default=0))
        if not sizes:
            size = fields.whole("bytes", least=1, default=None) or 0
            if bytes_of.setdefault(page, size) != size:
                problem = f"page {page} has {size} bytes here and {bytes_of[page]} before (0: not given)"
                raise fields.error("bytes", problem, "a page keeps its size; give all its lines the same")
    _some(path, steps)
    known = np.array(ids, dtype=np.int64)
    dense, blocks = dense_ids(known) if blocks is None else (known, blocks)
    page_bytes = np.array(sizes, dtype=np.int64) if isinstance(sizes, list) else sizes
    if any(bytes_of.values()):
        page_bytes = _sizes(header, blocks, dense, ids, bytes_of)
    clock, tokens = np.array(steps), header.whole("block_tokens")
    return pages(Path(path).name, dense, page_bytes, clock, _numbered(sequence), tokens, blocks)


def _sizes(
    header: Fields, blocks: int, dense: np.ndarray, ids: array, bytes_of: dict[int, int]
) -> np.ndarray:
    if len(bytes_of) < blocks or not all(bytes_of.values()):
        problem = f"{sum(map(bool, bytes_of.values()))} of {blocks} pages have a size"
        raise header.error("page_bytes", problem, "give every line its bytes, or page_bytes in the header")
    sizes = np.empty(blocks, np.int64)
    sizes[dense] = [bytes_of[page] for page in ids]
    return sizes


def _numbered(values: array) -> np.ndarray:
    return np.unique(np.array(values, dtype=np.int64), return_inverse=True)[1].reshape(-1).astype(np.int64)


def _requests(path: str | Path, header: Fields, lines: Iterator[Line]) -> Trace:
    blocks = header.record.get("blocks")
    most = LARGEST if blocks is None else blocks - 1
    times, sequence, tokens_in, tokens_out = array("d"), array("q"), array("q"), array("q")
    counts, start, length, line_of = array("q"), array("q"), array("q"), array("q")
    for place, text in lines:
        fields = json_fields(place, text)
        _forward(fields, "time_s", times)
        sequence.append(fields.whole("sequence", default=0))
        tokens_in.append(fields.whole("input_tokens", default=0))
        tokens_out.append(fields.whole("output_tokens", default=0))
        items = fields.items("runs")
        for at, item in enumerate(items):
            name = f"runs[{at}]"
            if not isinstance(item, list) or len(item) != 2:
                raise fields.error(
                    name, f"expected [first id, length], got {shown(item)}", "write runs as two integers"
                )
            start.append(check_whole(fields, f"{name}[0]", item[0], 0, most))
            length.append(check_whole(fields, f"{name}[1]", item[1], 1, LARGEST))
            if start[-1] + length[-1] - 1 > most:
                raise fields.error(
                    name,
                    f"the last id is {start[-1] + length[-1] - 1}, the largest allowed {most}",
                    "correct it",
                )
        counts.append(len(items))
        line_of.append(place.line)
    _some(path, times)
    run_start, run_length = np.array(start, dtype=np.int64), np.array(length, dtype=np.int64)
    if blocks is None:
        run_start, blocks = dense_runs(run_start, run_length)
        if blocks > MOST_BLOCKS:
            raise place_of(path).error(
                f"{blocks:,} different blocks", f"at most {MOST_BLOCKS:,} are supported", "runs"
            )
    numbers = _numbered(sequence)
    trace = Trace(
        name=Path(path).name,
        chained=True,
        block_tokens=header.whole("block_tokens"),
        time_s=np.array(times),
        sequence=numbers,
        first_run=np.concatenate([[0], np.cumsum(np.array(counts, dtype=np.int64))]),
        run_start=run_start,
        run_length=run_length,
        blocks=blocks,
        page_bytes=header.take("page_bytes", 0),
        input_tokens=np.array(tokens_in, dtype=np.int64),
        output_tokens=np.array(tokens_out, dtype=np.int64),
        ends=last_of(numbers),
    )
    return checked_tree(trace, str(path), line_of)


def _forward(fields: Fields, name: str, times: array) -> None:
    time_s = fields.seconds(name)
    if times and time_s < times[-1]:
        raise fields.error(name, f"{time_s:g} comes after {times[-1]:g}", "put the lines in order of time")
    times.append(time_s)


def _some(path: str | Path, times: array) -> None:
    if not times:
        raise place_of(path).error("the file has a header and no requests", "give at least one request")

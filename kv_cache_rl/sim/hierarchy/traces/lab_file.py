"""The lab's own trace file: JSON Lines, a header, then a request or page access a line.

A file named .gz, .bz2 or .xz is packed.

Header: {"format": "kv-cache-rl trace", "version": 1, "kind": "pages" or "requests", "name": text,
"block_tokens": tokens, "page_bytes": bytes of every page, or a list with one entry a page
(optional), "blocks": number of ids (optional)}. With `blocks` the ids are 0 ... blocks - 1 and are
used unchanged. Without it they are integers of up to 63 bits and get new, dense numbers.

* pages: {"step": 3, "page": 17, "bytes": 4096, "sequence": 0}. `bytes` is given only if the header has
  no page_bytes; all lines of a page agree. `sequence` is optional. Steps never fall. Equal steps are one
  tick, in file order.
* requests: {"time_s": 1.5, "sequence": 2, "input_tokens": 900, "output_tokens": 80,
  "runs": [[first id, length], ...]}. The runs are the blocks from the root on; an id names a block
  together with all blocks before it. Tokens are optional; where they are given, the runs hold as many
  blocks as the prompt fills or begins. A request whose blocks are not known has no runs: the lab needs
  them, other commands do not. "held_tokens" may say how much of its prompt its sequence held already.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kv_cache_rl.sim.hierarchy.traces.columns import UNKNOWN
from kv_cache_rl.sim.hierarchy.traces.numbering import dense_ids, dense_runs
from kv_cache_rl.sim.hierarchy.traces.trace import Trace, checked_tree, expand, last_of, pages
from kv_cache_rl.traces.errors import Place, place_of
from kv_cache_rl.traces.fields import LARGEST, Fields
from kv_cache_rl.traces.lab import (
    FORMAT,
    MOST_BLOCKS,
    VERSION,
    LabRequest,
    checked_header,
    lab_lines,
    lab_pages,
    written_whole,
)
from kv_cache_rl.traces.reading import located
from kv_cache_rl.traces.records import read_records


def load_lab_file(path: str | Path) -> Trace:
    """The trace in a file of this format. Raises TraceError at the first line that is not of it."""
    path, reading = located(path)
    records = read_records(path)
    header = checked_header(next(records))
    if header.record["kind"] == "pages":
        trace = _pages(path, header, lab_pages(records, reading))
    else:
        trace = _requests(path, header, lab_lines(header, records, reading))
    if reading.limit is not None:  # the header's blocks are those of the whole file
        trace = _named(trace)
    return replace(trace, name=header.text("name", default=Path(path).name))


def _named(trace: Trace) -> Trace:
    """The trace with the blocks that its requests name and no others."""
    run_start, blocks = dense_runs(trace.run_start, trace.run_length)
    sizes = trace.page_bytes
    if isinstance(sizes, np.ndarray):
        sizes = sizes[np.unique(expand(trace)[1])]  # their order stays
    return replace(trace, run_start=run_start, blocks=blocks, page_bytes=sizes)


def save(trace: Trace, path: str | Path) -> None:
    """Writes the trace to a file that appears whole or not at all, packed as its name says."""
    with written_whole(path) as lines:
        for record in _records(trace):
            lines.write(json.dumps(record) + "\n")


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
            tokens = {"input_tokens": int(trace.input_tokens[request])}
            if (answer := int(trace.output_tokens[request])) != UNKNOWN:
                tokens["output_tokens"] = answer
            pairs = [list(pair) for pair in zip(start, length, strict=True)]
            yield {"time_s": time_s, "sequence": sequence} | tokens | {"runs": pairs}
        else:
            yield {"step": time_s, "page": start[0], "sequence": sequence}


def _pages(path: str | Path, header: Fields, records: Iterator[Fields]) -> Trace:
    blocks, sizes = header.record.get("blocks"), _page_bytes(header)
    steps, ids, sequence = array("d"), array("q"), array("q")
    bytes_of: dict[int, int] = {}
    for fields in records:
        page = fields.whole("page", most=LARGEST if blocks is None else blocks - 1)
        steps.append(fields.seconds("step"))
        ids.append(page)
        sequence.append(fields.whole("sequence", default=0))
        if isinstance(sizes, int) and not sizes:
            size = fields.whole("bytes", least=1, default=None) or 0
            if bytes_of.setdefault(page, size) != size:
                problem = f"page {page} has {size} bytes here and {bytes_of[page]} before (0: not given)"
                raise fields.error("bytes", problem, "a page keeps its size; give all its lines the same")
    _some(path, steps)
    known = np.array(ids, dtype=np.int64)
    dense, blocks = dense_ids(known) if blocks is None else (known, blocks)
    if any(bytes_of.values()):
        sizes = _sizes(header, blocks, dense, ids, bytes_of)
    clock, tokens = np.array(steps), header.whole("block_tokens")
    return pages(Path(path).name, dense, sizes, clock, _numbered(sequence), tokens, blocks)


def _page_bytes(header: Fields) -> np.ndarray | int:
    """Bytes of each block, int64 [blocks], or of all; 0: not given."""
    sizes = header.take("page_bytes", 0)
    return np.array(sizes, dtype=np.int64) if isinstance(sizes, list) else sizes


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


def _requests(path: str | Path, header: Fields, lines: Iterator[LabRequest]) -> Trace:
    blocks = header.record.get("blocks")
    times, sequence, tokens_in, tokens_out = array("d"), array("q"), array("q"), array("q")
    counts, start, length, line_of = array("q"), array("q"), array("q"), array("q")
    unnamed: Place | None = None
    for one in lines:
        unnamed = one.place if one.runs is None and unnamed is None else unnamed
        times.append(one.time_s)
        sequence.append(one.sequence or 0)
        tokens_in.append(one.input_tokens)
        tokens_out.append(UNKNOWN if one.output_tokens is None else one.output_tokens)
        for first, count in one.runs or ():
            start.append(first)
            length.append(count)
        counts.append(len(one.runs or ()))
        line_of.append(one.place.line)
    _some(path, times)
    if unnamed is not None and start:
        raise unnamed.error(
            "the request names no blocks, which the hierarchy lab needs",
            "give it runs; stability plan and serving simulate do without",
            "runs",
        )
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
        page_bytes=_page_bytes(header),
        input_tokens=np.array(tokens_in, dtype=np.int64),
        output_tokens=np.array(tokens_out, dtype=np.int64),
        ends=last_of(numbers),
    )
    return checked_tree(trace, str(path), line_of)


def _some(path: str | Path, times: array) -> None:
    if not times:
        raise place_of(path).error("the file has a header and no requests", "give at least one request")

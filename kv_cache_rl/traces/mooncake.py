"""Mooncake traces (FAST'25, Apache-2.0): one request a line, with ids of chained 512-token blocks.

An id names a block together with everything before it. So an id has one parent, and equal ids mean
equal prefixes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kv_cache_rl.traces.fields import Fields, json_fields
from kv_cache_rl.traces.lines import Line, read_lines

BLOCK_TOKENS = 512


@dataclass(frozen=True, slots=True)
class MooncakeRequest:
    """One request."""

    timestamp_ms: int
    input_length: int  # tokens
    output_length: int  # tokens
    hash_ids: tuple[int, ...]  # ceil(input_length / block size) ids, the last block may be partial


def read_mooncake(path: str | Path, *, block_size: int = BLOCK_TOKENS) -> Iterator[MooncakeRequest]:
    """The requests of a file, in its order, which must be the order of time.

    Raises:
        TraceError: at the first line that is not a request of this format.
    """
    return parse_mooncake(read_lines(path), block_size=block_size)


def parse_mooncake(lines: Iterable[Line], *, block_size: int = BLOCK_TOKENS) -> Iterator[MooncakeRequest]:
    """The same from lines that are already in memory."""
    last_ms = 0
    for place, text in lines:
        fields = json_fields(place, text)
        request = _request(fields, block_size)
        if request.timestamp_ms < last_ms:
            problem = f"{request.timestamp_ms} ms is before {last_ms} ms"
            raise fields.error("timestamp", problem, "sort the file by timestamp")
        last_ms = request.timestamp_ms
        yield request


def _request(fields: Fields, block_size: int) -> MooncakeRequest:
    tokens = fields.whole("input_length", least=1)
    ids = fields.wholes("hash_ids")
    if len(ids) != -(-tokens // block_size):
        raise fields.error(
            "hash_ids",
            f"{len(ids)} ids for {tokens} tokens, expected {-(-tokens // block_size)} blocks of {block_size}",
            "correct the line, or name the block size the trace was made with",
        )
    return MooncakeRequest(fields.whole("timestamp"), tokens, fields.whole("output_length"), ids)

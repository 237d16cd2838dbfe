"""Qwen-Bailian traces: one request a line, with ids of 16-token blocks that name the content only.

Equal content behind different prefixes has equal ids, so that counting equal ids as hits overstates
them: a cached block is reusable only behind the same blocks. `chain_ids` are the ids chained again,
one per (parent chain, content).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kv_cache_rl.traces.fields import Fields, json_fields
from kv_cache_rl.traces.lines import Line, read_lines

BLOCK_TOKENS = 16
# Unchained ids may be full 64-bit hashes: they are compared and never stored in columns.
CONTENT_ID_LIMIT = 2**64 - 1
ROOT = -1


@dataclass(frozen=True, slots=True)
class BailianRequest:
    """One request."""

    chat_id: int
    parent_chat_id: int  # -1: the first turn
    timestamp_s: float
    input_length: int  # tokens
    output_length: int  # tokens
    kind: str  # "text" | "search" | "image" | "file"
    turn: int
    hash_ids: tuple[int, ...]  # content ids as in the file
    chain_ids: tuple[int, ...]  # same length; numbered from 0 in order of first appearance


def read_bailian(path: str | Path) -> Iterator[BailianRequest]:
    """The requests of a file, in its order, which must be the order of time.

    Raises:
        TraceError: at the first line that is not a request of this format.
    """
    return parse_bailian(read_lines(path))


def parse_bailian(lines: Iterable[Line]) -> Iterator[BailianRequest]:
    """The same from lines that are already in memory."""
    chains: dict[tuple[int, int], int] = {}
    last_s = 0.0
    for place, text in lines:
        fields = json_fields(place, text)
        request = _request(fields, chains)
        if request.timestamp_s < last_s:
            problem = f"{request.timestamp_s:g} s is before {last_s:g} s"
            raise fields.error("timestamp", problem, "sort the file by timestamp")
        last_s = request.timestamp_s
        yield request


def _request(fields: Fields, chains: dict[tuple[int, int], int]) -> BailianRequest:
    tokens = fields.whole("input_length")
    ids = fields.wholes("hash_ids", most=CONTENT_ID_LIMIT)
    if len(ids) not in (tokens // BLOCK_TOKENS, -(-tokens // BLOCK_TOKENS)):
        problem = f"{len(ids)} ids for {tokens} tokens, expected one per {BLOCK_TOKENS} tokens"
        raise fields.error("hash_ids", problem, "correct the line")
    return BailianRequest(
        chat_id=fields.whole("chat_id"),
        parent_chat_id=fields.whole("parent_chat_id", least=ROOT),
        timestamp_s=fields.seconds("timestamp"),
        input_length=tokens,
        output_length=fields.whole("output_length"),
        kind=fields.text("type"),
        turn=fields.whole("turn"),
        hash_ids=ids,
        chain_ids=chain(ids, chains),
    )


def chain(content_ids: tuple[int, ...], chains: dict[tuple[int, int], int]) -> tuple[int, ...]:
    """Ids that name each block with all blocks before it; new ones are added to `chains`."""
    chained: list[int] = []
    parent = ROOT
    for content in content_ids:
        parent = chains.setdefault((parent, content), len(chains))
        chained.append(parent)
    return tuple(chained)

"""The format of a trace file, found from its first line, and the reader of each format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kv_cache_rl.traces.bailian import read_bailian
from kv_cache_rl.traces.claude_code import read_sessions
from kv_cache_rl.traces.errors import Place, place_of
from kv_cache_rl.traces.fields import json_fields
from kv_cache_rl.traces.lines import read_lines
from kv_cache_rl.traces.mooncake import read_mooncake
from kv_cache_rl.traces.tables import AZURE_COLUMNS, BURSTGPT_COLUMNS, cells_of, read_azure, read_burstgpt


def detect(path: str | Path) -> str:
    """The name of the file's format, a key of FORMATS.

    Raises:
        TraceError: the file cannot be read, or its first line fits no format.
    """
    first = next(read_lines(path), None)
    if first is None:
        raise place_of(path).error("the file is empty", "give a trace with at least one request")
    return detect_line(*first)


def detect_line(place: Place, text: str) -> str:
    """The format of a file with this first line.

    Raises:
        TraceError: it fits no format.
    """
    if text.startswith("{"):
        keys = set(json_fields(place, text).record)
        for name, needed in JSON_KEYS.items():
            if needed <= keys:
                return name
    else:
        columns = set(cells_of(place, text))
        for name, header in HEADERS.items():
            if set(header) <= columns:
                return name
    known = ", ".join(FORMATS)
    raise place.error(
        "the first line fits no known trace format", f"give one of {known} (or check its first line)"
    )


def read(path: str | Path) -> Iterator[Any]:
    """The records of a file in any known format, as the reader of that format gives them.

    Raises:
        TraceError: as `detect` and the readers.
    """
    return FORMATS[detect(path)](path)


JSON_KEYS = {
    "claude-code": {"id", "requests"},
    "bailian": {"chat_id", "parent_chat_id", "hash_ids"},
    "mooncake": {"timestamp", "input_length", "output_length"},
}

HEADERS = {"azure": AZURE_COLUMNS, "burstgpt": BURSTGPT_COLUMNS}

FORMATS: dict[str, Callable[..., Iterator[Any]]] = {
    "claude-code": read_sessions,
    "mooncake": read_mooncake,
    "bailian": read_bailian,
    "azure": read_azure,
    "burstgpt": read_burstgpt,
}

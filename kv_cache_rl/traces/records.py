"""The JSON objects of a file, one at a time, in whichever of the usual ways they are written: one a
line, one over many lines, or as the items of a list.

Harmless: comment lines (# or //) before the first object, a comma behind an object's line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from kv_cache_rl.files import BLANK_LIMIT
from kv_cache_rl.traces.errors import Place
from kv_cache_rl.traces.fields import Fields, json_fields
from kv_cache_rl.traces.lines import Line, read_lines

DOCUMENT_LIMIT = 512 * 2**20  # characters of one object over many lines
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')


def read_records(path: str | Path) -> Iterator[Fields]:
    """The objects of a file, each with the line it begins on.

    Raises TraceError for a file that is no text and for what is no JSON object.
    """
    return parse_records(read_lines(path))


def parse_records(lines: Iterable[Line]) -> Iterator[Fields]:
    """The same from lines that are already in memory."""
    rest = iter(lines)
    for place, text in rest:
        if text.startswith(("#", "//")):
            continue
        if text.startswith("["):
            yield from _items(chain([(place, text)], rest))
        elif text.startswith("{") and _open_at_end(text):
            yield from _items(chain([(place, "[" + text)], rest), closed=False)
        else:
            yield from (json_fields(*line) for line in chain([(place, text)], rest))


def _open_at_end(text: str) -> bool:
    """Whether a line ends inside an object that it begins, so that the next lines belong to it."""
    depth = 0
    for token in TOKEN.finditer(text):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token[0], 0)
    return depth > 0 and text.endswith(("{", "[", ",", ":", "}", "]"))


def _items(lines: Iterable[Line], closed: bool = True) -> Iterator[Fields]:
    """The objects inside a list that the first line opens; `closed`: the list must also end."""
    depth, size, idle, begun, parts = 0, 0, 0, Place(""), list[str]()
    place = begun
    for place, text in lines:
        start = 0
        for token in TOKEN.finditer(text):
            depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token[0], 0)
            if depth == 2 and token[0] in "{[" and size == 0:
                _nothing(place, text[start : token.start()])
                begun, start, size = place, token.start(), 1
            elif depth == 1 and token[0] in "}]" and size:
                yield json_fields(begun, "\n".join([*parts, text[start : token.end()]]))
                start, size, parts = token.end(), 0, []
        idle = idle + 1 if start == 0 else 0
        if not size:
            _nothing(place, text[start:])
            if idle > BLANK_LIMIT:
                raise place.error(
                    f"{BLANK_LIMIT:,} lines without an object stand before it", "shorten the list"
                )
            continue
        parts.append(text[start:])
        size += len(text) - start
        if size > DOCUMENT_LIMIT:
            raise begun.error(
                f"one object of over {DOCUMENT_LIMIT:,} characters", "write one request or session a line"
            )
    if size or (closed and depth > 0):
        raise (begun if size else place).error(
            "the file ends before its brackets close (cut off?)", "restore its end, or download it again"
        )


def _nothing(place: Place, text: str) -> None:
    """Raises TraceError where anything but commas and the list's own brackets stands between two
    objects.
    """
    if bare := text.strip(" ,\t[]"):
        raise place.error(
            f"expected a JSON object, got {bare[:40]!r}", "give objects, and commas between them"
        )

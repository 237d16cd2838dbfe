"""The lines of a trace file, one at a time, as text. Lines may end in LF, CR LF or CR."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

from kv_cache_rl.files import BLANK_LIMIT, LINE_LIMIT
from kv_cache_rl.traces.errors import Place, place_of
from kv_cache_rl.traces.files import TORN, peek, torn, unpacked

UTF_16 = (b"\xff\xfe", b"\xfe\xff")
COMMENTS, COMMENT_LIMIT = ("#", "//", "sep="), 10_000  # lines of comments before anything else

Line = tuple[Place, str]  # where it stood, what it says (without the line end)


def read_lines(path: str | Path) -> Iterator[Line]:
    """The non-blank lines of the file, in order; how it is packed and encoded is told from its
    first bytes.

    Raises TraceError for a path that is no readable file, an empty file, damaged or cut-off packed
    data, a line over 64 MiB, a million blank lines in a row, ten thousand comments before anything else,
    and bytes that are neither UTF-8 nor marked UTF-16."""
    whole = place_of(path)
    found = False
    with unpacked(path) as content:
        head = peek(content, whole)
        raw_lines = _recoded(content, whole) if head.startswith(UTF_16) else _raw_lines(content, whole)
        if b"\0" in head and not head.startswith(UTF_16):
            raise whole.error(
                "these are binary data, not text",
                "give a text file (in UTF-8, or in UTF-16 with a byte order mark); libCacheSim's binary "
                "traces: kv-cache-rl traces convert --format oracle-general",
            )
        for line in _decoded(raw_lines, whole.path):
            found = True
            yield line
    if not found:
        raise whole.error(
            "the file is empty", "give a trace with at least one request (was the download cut off?)"
        )


def _raw_lines(content: io.BufferedReader, whole: Place) -> Iterator[tuple[int, bytes]]:
    number = 0
    while True:
        try:
            raw = content.readline(LINE_LIMIT + 1)
        except TORN as error:
            raise torn(Place(whole.path, number + 1), error) from None
        except OSError as error:
            raise whole.error(
                f"reading failed after line {number} ({error})", "check the disk and try again"
            ) from None
        if not raw:
            return
        if len(raw) > LINE_LIMIT:
            raise Place(whole.path, number + 1).error(
                f"the line is longer than {LINE_LIMIT:,} bytes",
                "check that this is a trace with one record a line",
            )
        for piece in raw.removesuffix(b"\n").removesuffix(b"\r").split(b"\r"):
            number += 1
            yield number, piece


def _recoded(content: io.BufferedReader, whole: Place) -> Iterator[tuple[int, bytes]]:
    """The lines of a file in UTF-16, which Excel calls Unicode text."""
    text = io.TextIOWrapper(content, encoding="utf-16", newline=None)
    number = 0
    while True:
        number += 1
        try:
            line = text.readline(LINE_LIMIT)
        except UnicodeError as error:
            raise Place(whole.path, number).error(
                f"the bytes are not UTF-16, as the file's mark says ({error})", "save it as UTF-8"
            ) from None
        if not line:
            text.detach()
            return
        yield number, line.encode()


def _decoded(raw_lines: Iterable[tuple[int, bytes]], path: str) -> Iterator[Line]:
    blank, comments, begun = 0, 0, False
    for number, raw in raw_lines:
        here = Place(path, number)
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise here.error(
                f"byte {raw[error.start]:#04x} at column {error.start + 1} is not UTF-8",
                "give a text file in UTF-8, or that file compressed with gzip",
            ) from None
        blank = 0 if text else blank + 1
        if blank > BLANK_LIMIT:
            raise here.error(f"{BLANK_LIMIT:,} blank lines stand before it", "give a file that holds a trace")
        begun = begun or not (text == "" or text.startswith(COMMENTS))
        comments += bool(text) and not begun
        if comments > COMMENT_LIMIT:
            raise here.error(f"{COMMENT_LIMIT:,} comments stand before it", "give a file that holds a trace")
        if text:
            yield here, text

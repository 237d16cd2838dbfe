"""The lines of a trace file, one at a time, gzip or plain. No other module here opens files."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO, cast

from kv_cache_rl.traces.errors import Place, TraceError, place_of

GZIP_MAGIC = b"\x1f\x8b"
LINE_LIMIT = 64 * 2**20  # bytes; the longest line of the published traces has 136 kB

Line = tuple[Place, str]  # where it stands, its text without the line end


def read_lines(path: str | Path) -> Iterator[Line]:
    """The non-blank lines of the file, in order. Its first bytes say whether it is compressed.

    Raises:
        TraceError: no readable file, an empty one, damaged or cut-off gzip data, a line over 64
            MiB, or bytes that are not UTF-8.
    """
    whole = place_of(path)
    found = False
    with _open(path, whole) as file:
        for line in _decoded(_raw_lines(file, whole), whole.path):
            found = True
            yield line
    if not found:
        raise whole.error(
            "the file is empty", "give a trace with at least one request (was the download cut off?)"
        )


def _open(path: str | Path, whole: Place) -> BinaryIO:
    try:
        if Path(path).is_dir():
            raise whole.error("this is a directory", "name a trace file inside it")
        if not S_ISREG(Path(path).stat().st_mode):
            raise whole.error("this is not a regular file", "save the trace to a file first")
        with open(path, "rb") as file:
            compressed = file.read(2) == GZIP_MAGIC
        return cast("BinaryIO", gzip.open(path, "rb")) if compressed else open(path, "rb")
    except FileNotFoundError:
        raise whole.error("there is no such file", "check the path") from None
    except PermissionError:
        raise whole.error(
            "no permission to read it", f"make it readable, e.g. chmod u+r {whole.path}"
        ) from None
    except TraceError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        raise whole.error(f"it cannot be opened ({error})", "check the path and the file system") from None


def _raw_lines(file: BinaryIO, whole: Place) -> Iterator[tuple[int, bytes]]:
    number = 0
    while True:
        try:
            raw = file.readline(LINE_LIMIT + 1)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            here = Place(whole.path, number + 1)
            raise here.error(
                f"the gzip data is damaged or cut off ({error})", "download the file again"
            ) from None
        except OSError as error:
            raise whole.error(
                f"reading failed after line {number} ({error})", "check the disk and try again"
            ) from None
        if not raw:
            return
        number += 1
        if len(raw) > LINE_LIMIT:
            raise Place(whole.path, number).error(
                f"the line is longer than {LINE_LIMIT:,} bytes",
                "check that this is a trace with one record a line",
            )
        yield number, raw


def _decoded(raw_lines: Iterable[tuple[int, bytes]], path: str) -> Iterator[Line]:
    for number, raw in raw_lines:
        here = Place(path, number)
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise here.error(
                f"byte {raw[error.start]:#04x} at column {error.start + 1} is not UTF-8",
                "give a text file in UTF-8, or that file compressed with gzip",
            ) from None
        if text:
            yield here, text

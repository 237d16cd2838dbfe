"""Trace files as bytes: the only module here that opens files. What is packed is unpacked while it
is read, and what is no trace at all (a Git LFS pointer, a web page, a Parquet file, an archive) is
named."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from kv_cache_rl.files import NotAFile, regular, same_file
from kv_cache_rl.traces.errors import Place, TraceError, place_of

HEAD = 4096
CHUNK = 512  # bytes of Zstandard data at a time: a bomb must not fill the memory
FOLDER_ENDINGS = re.compile(r"\.jsonl?(\.(gz|zst|bz2|xz))?$", re.IGNORECASE)
"""Names of the files in a folder that are read; others (notes, pictures) are left alone, and so are
hidden ones, such as macOS leaves beside every file that it packs (._a.json).
"""
TORN = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)


def sources(path: str | Path) -> list[Path]:
    """The files that make up a trace: itself, or those of a folder by name.

    Raises:
        TraceError: there is none.
    """
    folder = Path(path)
    try:
        if not folder.is_dir():
            return [folder]
        seen = (one for one in folder.iterdir() if not one.name.startswith("."))
        found = sorted(one for one in seen if FOLDER_ENDINGS.search(one.name) and not one.is_dir())
    except (OSError, ValueError) as error:
        raise place_of(path).error(
            f"it cannot be opened ({error})", "check the path and the permissions"
        ) from None
    if not found:
        raise place_of(path).error(
            "this is a directory without trace files",
            "name a trace file, or a folder of Claude Code sessions (.json or .jsonl)",
        )
    return found


def refuse_within(path: str | Path, out: Path, option: str = "--out") -> None:
    """Raises TraceError where a trace is a folder of files, and `out` would be one of them when it is read
    again.
    """
    if Path(path).is_dir() and FOLDER_ENDINGS.search(out.name) and same_file(path, out.parent):
        raise place_of(path).error(
            f"{out.name} would be read with the other files of this folder from then on",
            f"give an {option} outside of it",
        )


def digest(path: str | Path) -> str:
    """SHA-256 of a trace's bytes as they lie on disk, in hexadecimal; of a folder's files one after
    the other.
    """
    found = hashlib.sha256()
    for source in sources(path):
        with on_disk(source) as file:
            while chunk := file.read(2**20):
                found.update(chunk)
    return found.hexdigest()


def stamp(path: str | Path) -> tuple[int, int]:
    """When a trace was last changed, in nanoseconds, and its bytes: another stamp is another
    version of it.
    """
    found = [source.stat() for source in sources(path)]
    return max(one.st_mtime_ns for one in found), sum(one.st_size for one in found)


@contextmanager
def on_disk(path: str | Path) -> Iterator[BinaryIO]:
    """The file's bytes as they are. Raises TraceError for a path that is no readable file."""
    whole = place_of(path)
    try:
        if Path(path).is_dir():
            raise whole.error("this is a directory", "name a trace file inside it")
        file = open(regular(path), "rb")
    except NotAFile:
        raise whole.error("this is not a regular file", "save the trace to a file first") from None
    except FileNotFoundError:
        if Path(path).is_symlink():
            raise whole.error(
                "this is a link to a file that is not there",
                "fetch what it stands for (git annex get, dvc pull), or remove the link",
            ) from None
        raise whole.error("there is no such file", "check the path") from None
    except PermissionError:
        raise whole.error(
            "no permission to read it", f"make it readable, e.g. chmod u+r {whole.path}"
        ) from None
    except TraceError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        raise whole.error(f"it cannot be opened ({error})", "check the path and the file system") from None
    with file:
        yield file


@contextmanager
def unpacked(path: str | Path) -> Iterator[io.BufferedReader]:
    """The file's content: gzip, bzip2, xz and Zstandard are told from the first bytes and unpacked.

    Raises:
        TraceError: no readable file, or one that is no trace, with what it is instead.
    """
    with on_disk(path) as file:
        start = file.read(6)
        file.seek(0)
        open_packed = next((open_it for magic, open_it in PACKED.items() if start.startswith(magic)), None)
        content = io.BufferedReader(
            cast(Any, open_packed(file, place_of(path)) if open_packed else file), 2**16
        )
        refuse_foreign(peek(content, place_of(path)), place_of(path))
        yield content


def peek(content: io.BufferedReader, whole: Place) -> bytes:
    """The first bytes of a content, still to be read."""
    try:
        return content.peek(HEAD)[:HEAD]
    except TORN as error:
        raise torn(Place(whole.path, 1), error) from None
    except OSError as error:
        raise whole.error(f"reading failed ({error})", "check the file and try again") from None


def torn(place: Place, error: Exception) -> TraceError:
    """The error for packed data that ends too early or is damaged."""
    kind = "gzip" if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile) else "compressed"
    return place.error(f"the {kind} data is damaged or cut off ({error})", "download the file again")


def _zstandard(file: BinaryIO, whole: Place) -> Any:
    try:
        import zstandard  # pyrefly: ignore [missing-import]
    except ImportError:
        raise whole.error(
            "reading Zstandard data (.zst) needs the package zstandard",
            "install it (pip install 'kv-cache-rl[zst]'), or unpack the file (zstd -d)",
        ) from None
    return _Zstandard(file, zstandard.ZstdDecompressor)


class _Zstandard(io.RawIOBase):
    """The content of Zstandard frames, one after the other; one that ends too early or is damaged
    is an error, as it is with gzip."""

    def __init__(self, file: BinaryIO, make: Callable[[], Any]) -> None:
        self.file, self.make = file, make
        self.frame: Any = None
        self.packed, self.ready = b"", b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.ready:
            self.packed = self.packed or self.file.read(CHUNK)
            if not self.packed:
                if self.frame is not None:
                    raise lzma.LZMAError("Zstandard data ended before the end of its frame")
                return 0
            self.frame = self.frame or self.make().decompressobj()
            try:
                self.ready = self.frame.decompress(self.packed)
            except Exception as error:  # zstandard.ZstdError, a plain Exception
                raise lzma.LZMAError(str(error)) from None
            self.packed = b""
            if self.frame.eof:
                self.packed, self.frame = self.frame.unused_data, None
        taken = self.ready[: len(buffer)]
        buffer[: len(taken)] = taken
        self.ready = self.ready[len(taken) :]
        return len(taken)


PACKED: dict[bytes, Callable[[BinaryIO, Place], Any]] = {
    b"\x1f\x8b": lambda file, whole: gzip.GzipFile(fileobj=file),
    b"BZh": lambda file, whole: bz2.BZ2File(file),
    b"\xfd7zXZ": lambda file, whole: lzma.LZMAFile(file),
    b"\x28\xb5\x2f\xfd": _zstandard,
}
"""First bytes → what unpacks them."""


def refuse_foreign(head: bytes, whole: Place) -> None:
    """Raises TraceError where a content begins as something that is known and is no trace."""
    for pattern, what, remedy in FOREIGN:
        if re.match(pattern, head, re.IGNORECASE | re.DOTALL):
            raise whole.error(f"this is {what}", remedy)


FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (
        rb"\s*version https://git-lfs",
        "a Git LFS pointer, not the data it stands for",
        "run git lfs install and git lfs pull in its repository, or download the file from its web page",
    ),
    (
        rb"(\xef\xbb\xbf)?\s*<(!doctype|html|\?xml|head|body)",
        "a web page, not a trace",
        "download the raw file (the page's Download or Raw button)",
    ),
    (
        rb"\s*((error )?\d{3}:? (not found|forbidden|unauthorized|too many)|not found\s*$"
        rb"|entry not found|invalid username or password|repository not found)",
        "a server's error message, not a trace",
        "check the address and download the file again",
    ),
    (
        rb'\s*\{\s*"(message|error|detail)"\s*:\s*"',
        "a server's error message, not a trace",
        "check the address and download the file again",
    ),
    (
        rb"PAR1",
        "a Parquet file",
        "write it as JSON Lines first: "
        "pandas.read_parquet(FILE).to_json('trace.jsonl', orient='records', lines=True)",
    ),
    (rb"\xff\xfe\0\0|\0\0\xfe\xff", "a text in UTF-32", "save it as UTF-8"),
    (
        rb"\x1f\x8b\x08|BZh[1-9]|\xfd7zXZ\0|\x28\xb5\x2f\xfd",
        "packed twice",
        "unpack it once (gzip -d, bzip2 -d, xz -d or zstd -d) and name what comes out",
    ),
    (rb"PK\x03\x04", "a ZIP archive or an Excel workbook", "unpack it, or save the sheet as CSV"),
    (rb".{257}ustar", "a tar archive", "unpack it (tar -xf) and name the trace file inside"),
    (
        rb"ARROW1|SQLite format 3|\x89HDF",
        "a database or table in a binary format",
        "export it as CSV or JSON Lines",
    ),
)
"""Beginnings of files that are no traces: pattern, what it is, what to do."""

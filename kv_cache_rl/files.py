"""JSON that every reader takes, read as strictly as it is written; files that appear whole or not at all;
names that a file may have.
"""

import errno
import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, BinaryIO, NoReturn

from kv_cache_rl.core.errors import Refused
from kv_cache_rl.core.numbers import unread

LINE_LIMIT = 64 * 2**20
"""Bytes of a line, and of a JSON file, at most: an endless file must not fill the memory."""
BLANK_LIMIT = 1_000_000
"""Blank lines in a row at most: a small packed file can hold thousands of millions."""


SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
"""Half of a character above U+FFFF, alone or as one of a pair."""


class NotAFile(OSError):
    """Something else than a file stands under the name: a pipe, a socket or a device, which may never end."""


class NotJson(Refused):
    """A text or a file that is not JSON as this package writes it; the text says what is wrong with it."""


def json_value(text: str | bytes) -> Any:
    """The value of a JSON text, for files that the package wrote itself and that a hand may have changed.

    Raises:
        NotJson: no UTF-8, no JSON, brackets nested too deep, a key that stands twice in one object, NaN,
            a number beyond every float, or half a character.
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(
            text, object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite_float
        )
        if SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except NotJson:
        raise
    except UnicodeEncodeError:
        raise NotJson("it holds half a character (\\ud800 to \\udfff), which no file can hold") from None
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise NotJson(f"byte {byte:#04x} at position {error.start + 1} is not UTF-8") from None
    except RecursionError:
        raise NotJson("its brackets are nested too deep") from None
    except ValueError as error:  # no JSON, or a number of thousands of digits
        raise NotJson(f"it is not JSON ({unread(error)})") from None


def regular(path: str | Path) -> Path:
    """The path itself, to be opened: opening a pipe waits for its other end, perhaps for ever.

    A folder and a name without a file pass, since opening them says what they are at once.

    Raises:
        NotAFile: a pipe, a socket or a device.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return path
    if not (S_ISREG(mode) or S_ISDIR(mode)):
        raise NotAFile(errno.EINVAL, "is not a regular file", str(path))
    return path


def read_json(path: Path) -> Any:
    """The value of a JSON file, read as `json_value` reads a text.

    Raises:
        NotJson: naming the file.
        OSError: it cannot be opened.
    """
    with open(regular(path), "rb") as file:
        data = file.read(LINE_LIMIT + 1)
    try:
        if len(data) > LINE_LIMIT:
            raise NotJson(f"it holds more than {LINE_LIMIT:,} bytes")
        return json_value(data)
    except NotJson as error:
        raise NotJson(f"{path} is damaged: {error}") from None


def lines_of(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines of an open file that are not blank, each with its number.

    Raises:
        NotJson: a line, or a run of blank ones, is so long that the file may have no end.
    """
    number = blank = 0
    while line := file.readline(LINE_LIMIT + 1):
        number += 1
        blank = 0 if line.strip() else blank + 1
        if len(line) > LINE_LIMIT:
            raise NotJson(f"line {number} is longer than {LINE_LIMIT:,} bytes")
        if blank > BLANK_LIMIT:
            raise NotJson(f"{BLANK_LIMIT:,} blank lines stand before line {number + 1}")
        if not blank:
            yield number, line


def _once(pairs: list[tuple[str, Any]]) -> dict:
    found: dict = {}
    for name, value in pairs:
        if name in found:
            raise NotJson(f"the field {name[:60]!r} stands there twice")
        found[name] = value
    return found


def _no_number(word: str) -> NoReturn:
    raise NotJson(f"it holds {word}, which is no number in JSON")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise NotJson(f"{text[:40]} is beyond every number")
    return value


def finite(value: Any) -> Any:
    """The value with None in place of NaN and infinity, which JSON does not have.

    >>> finite({"rate": float("inf"), "rows": [1, float("nan")]})
    {'rate': None, 'rows': [1, None]}
    """
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_text(value: Any, indent: int | None = 2, ascii_only: bool = True) -> str:
    """A value as JSON, null in place of NaN and infinity.

    >>> json_text({"mean": float("nan")}, indent=None)
    '{"mean": null}'
    """
    return json.dumps(finite(value), indent=indent, ensure_ascii=ascii_only, allow_nan=False)


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Writes a value as a JSON file that appears whole or not at all; on one line without an indent."""
    write_whole(path, (json_text(value, indent=indent) + "\n").encode())


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file that appears whole or not at all."""
    with part_of(path) as part, open(part, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def part_of(path: Path) -> Generator[Path]:
    """Where to write a file, which gets its own name when the block ends; after an error nothing is left. A
    link stays one: what it leads to is written.

    Raises:
        OSError: its folder is not there, it is a folder itself, or the disk is full; with the file's name.
        NotAFile: it would replace a pipe or a device.
    """
    for code, wrong in ((errno.EISDIR, path.is_dir()), (errno.ENOENT, not path.parent.is_dir())):
        if wrong:
            raise OSError(code, os.strerror(code), str(path))
    # A name of its own: of two processes that write one file at once, the last to end has it, whole.
    place = Path(os.path.realpath(regular(path)))
    part = place.with_name(f"{place.name}.{secrets.token_hex(4)}.part")
    try:
        with naming(path, part):
            yield part
            os.replace(part, place)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def naming(path: str | Path, part: Path | None = None) -> Generator[None]:
    """Errors of the operating system inside that name no file, as those of a full disk, name this one; so do
    those that name a part of it.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(part)):
            error.filename = str(path)
        raise


def digest_of(root: Path, parts: Iterable[str], begun: str, pattern: str = "*.py") -> str:
    """Sixteen hexadecimal digits of a text and of files below a folder: of their names and bytes.

    Args:
        parts: files, and folders of which all files count whose names fit the pattern.
        begun: the text, such as a version.
    """
    digest = hashlib.sha256(begun.encode())
    found = {path for part in parts for path in (root / part, *(root / part).rglob(pattern))}
    for path in sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def holds(descriptor: int, alone: bool = True) -> bool:
    """Whether this process holds an open file or folder, from now until it closes it: `alone`, or beside
    others that hold it likewise.

    Always, on a system without such locks.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def same_file(left: str | Path, right: str | Path) -> bool:
    """Whether two paths lead to one file that is there, by whatever names and links."""
    try:
        return os.path.samefile(left, right)
    except (OSError, ValueError):  # one of them is not there, or can be no file's name
        return False


def whole_text(text: str) -> str:
    """The text with a question mark for every half of a character, which no file can hold.

    >>> whole_text("a\\ud800b")
    'a?b'
    """
    return text.encode("utf-8", "replace").decode()


def slug(text: str, empty: str = "unnamed") -> str:
    """A text as the name of a file or folder; `empty` where nothing of it can be in one.

    >>> slug("Mooncake: 5 %/h")
    'Mooncake-5-h'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-") or empty

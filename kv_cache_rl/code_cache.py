"""Compiled code on disk, with a check sum: what a power cut or a full disk left is noticed and built anew.

Numba keeps two files for each function, an index and the code, and reads both without a look at
them. Here both begin with a check sum. What does not fit it, or cannot be read, is thrown away. What
cannot be written is left out. Either is said once, in one line on stderr.

Numba also numbers the files of code, and two processes that compile at once may take one number for
two signatures. Here every file has a name of its own, and the index is written after the code.

And Numba numbers functions within a process, which alone tells the symbols of two closures of one
factory apart. Code that two processes kept may have one symbol for two functions, and a process that loads
both calls the first for either. Here the numbers are drawn, so that no two are alike.

Sources: numba.core.caching of Numba 0.60 to 0.69, of which this replaces the files and the locator; Numba
issue 10486 on the numbers."""

import contextlib
import functools
import glob
import hashlib
import io
import os
import pickle
import secrets
import sys
import uuid
import zlib
from pathlib import Path
from typing import Any

from numba.core.bytecode import FunctionIdentity
from numba.core.caching import (
    CompileResultCacheImpl,
    FunctionCache,
    IndexDataCacheFile,
    _CacheLocator,
)

SUM_BYTES = 4

# Drawn for each function, not counted from a drawn start: processes that are forked must not share them.
_drawn: Any = iter(functools.partial(secrets.randbits, 62), None)
FunctionIdentity._unique_ids = _drawn


class Damaged(Exception):
    """A file of the cache that is not as it was written."""


class CheckedFile(IndexDataCacheFile):
    """The index and the code of one function."""

    def load(self, key: Any) -> Any:
        """The compiled code for a signature; None where there is none, or none that can be used."""
        try:
            name = self._load_index().get(key)
            return None if name is None else self._load_data(name)
        except FileNotFoundError:  # the code was removed, the index was not
            return None
        except Exception as error:
            # Whatever a pickle of another version raises counts too: compiling is always right.
            self._discard(error)
            return None

    def save(self, key: Any, data: Any) -> None:
        """Keeps the compiled code of a signature, where that is possible."""
        try:
            try:
                overloads = self._load_index()
            except Exception as error:
                self._discard(error)
                overloads = {}
            overloads[key] = self._data_name(0)
            self._save_data(overloads[key], data)
            self._save_index(overloads)
        except OSError as error:
            say(
                f"compiled code cannot be kept in {Locator.folder} ({error.strerror or error}), so every "
                "process compiles it again; make room there, or set KV_CACHE_RL_CACHE to another folder"
            )

    def _discard(self, error: Exception) -> None:
        say(f"compiled code in {Locator.folder} was damaged; it is thrown away and compiled anew ({error})")
        base = glob.escape(self._index_name.removesuffix(".nbi"))
        for path in Path(self._cache_path).glob(f"{base}.*"):
            with contextlib.suppress(OSError):  # what stays is replaced, or found again
                path.unlink()

    def _load_index(self) -> dict:
        try:
            content = io.BytesIO(checked(self._index_path))
        except FileNotFoundError:
            return {}
        if pickle.load(content) != self._version:  # the rest may need the other version to be read
            return {}
        stamp, overloads = pickle.loads(content.read())
        return overloads if stamp == self._source_stamp else {}

    def _save_index(self, overloads: dict) -> None:
        head = pickle.dumps(self._version, protocol=-1)
        self._write(self._index_path, head + self._dump((self._source_stamp, overloads)))

    def _load_data(self, name: str) -> Any:
        return pickle.loads(checked(self._data_path(name)))

    def _save_data(self, name: str, data: Any) -> None:
        self._write(self._data_path(name), self._dump(data))

    def _data_name(self, number: int) -> str:
        return f"{self._index_name.removesuffix('.nbi')}.{uuid.uuid4().hex[:12]}.nbc"

    def _write(self, path: str, content: bytes) -> None:
        with self._open_for_write(path) as file:
            file.write(zlib.crc32(content).to_bytes(SUM_BYTES, "big") + content)


def checked(path: str) -> bytes:
    """The content of a file behind its check sum. Raises Damaged where the two do not fit."""
    data = Path(path).read_bytes()
    content = data[SUM_BYTES:]
    if len(data) < SUM_BYTES or zlib.crc32(content) != int.from_bytes(data[:SUM_BYTES], "big"):
        raise Damaged(f"{Path(path).name} is cut off or altered")
    return content


_said: set[str] = set()


def say(line: str) -> None:
    """Writes a line to stderr, once for each beginning: one damaged function is seldom alone."""
    if (begin := line[:30]) not in _said:
        _said.add(begin)
        print(f"note: {line}", file=sys.stderr)


# Numba declares what its methods and lists return by the first of its own classes alone.
class Locator(_CacheLocator):
    """Where the code of a function lies: in one folder for all, whether or not it can be written to."""

    folder = Path()

    def __init__(self, py_func: Any, py_file: str) -> None:
        self._file, self._line = py_file, py_func.__code__.co_firstlineno

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> "Locator":
        return cls(py_func, py_file)

    def get_cache_path(self) -> Any:
        return os.path.join(self.folder, self.get_suitable_cache_subpath(self._file))

    def ensure_cache_path(self) -> None:
        with contextlib.suppress(OSError):  # said when there is code to keep
            os.makedirs(self.get_cache_path(), exist_ok=True)

    def get_source_stamp(self) -> Any:
        return _digest(self._file)

    def get_disambiguator(self) -> Any:
        return str(self._line)


@functools.cache
def _digest(path: str) -> bytes:
    return hashlib.sha256(Path(path).read_bytes()).digest()


class _Code(CompileResultCacheImpl):
    _locator_classes: Any = (Locator,)


class CheckedCache(FunctionCache):
    """Numba's cache of one function, with files that are checked."""

    _impl_class = _Code

    def __init__(self, py_func: Any) -> None:
        super().__init__(py_func)
        stamp = self._impl.locator.get_source_stamp()
        self._cache_file = CheckedFile(self._cache_path, self._impl.filename_base, stamp)

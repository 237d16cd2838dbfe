"""KV events written down as they come: a file that is whole after every batch, whatever ends it."""

from __future__ import annotations

import errno
import json
import os
from io import FileIO
from pathlib import Path
from types import TracebackType

from kv_cache_rl.files import holds, regular
from kv_cache_rl.traces.errors import place_of
from kv_cache_rl.traces.kv_events import Batch, record_of


class Recording:
    """A file of JSON lines, one a batch; nothing of a batch is written where all of it cannot be."""

    def __init__(self, path: Path) -> None:
        self.path, self.batches, self._end = path, 0, 0
        self._file: FileIO | None = None

    def append(self, batch: Batch) -> None:
        """Writes a batch; the first one replaces a file of that name.

        Raises:
            OSError: it cannot be written; the file ends with the batch before it.
            TraceError: another recording writes to it.
        """
        file = self._file = self._file or self._opened()
        line = json.dumps(record_of(batch)).encode() + b"\n"
        try:
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            file.truncate(self._end)
            raise OSError(error.errno, error.strerror, str(self.path)) from None
        self._end += len(line)
        self.batches += 1

    def _opened(self) -> FileIO:
        file = open(regular(self.path), "ab", buffering=0)
        if not holds(file.fileno()):
            file.close()
            raise place_of(self.path).error(
                "another recording writes to it now", "give another --out, or stop the other one first"
            )
        file.truncate(0)
        return file

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

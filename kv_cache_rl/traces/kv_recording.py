"""KV events written down as they come: a file that is whole after every batch, whatever ends it."""

from __future__ import annotations

import errno
import json
import os
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from kv_cache_rl.files import finite, holds, regular
from kv_cache_rl.traces.errors import place_of
from kv_cache_rl.traces.kv_events import CLEARED, GPU, REMOVED, STORED, Batch, Cleared, Event, Stored, Unknown


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


def record_of(batch: Batch) -> dict[str, Any]:
    """The batch as a line of a file says it; the tokens of the prompts are not among it."""
    head = {"ts": batch.time_s, "seq": batch.sequence, "data_parallel_rank": batch.rank or None}
    head |= {"missed": batch.missed or None, "restarted": batch.restarted or None}
    line: dict[str, Any] = {key: value for key, value in head.items() if value is not None}
    return {"ts": None, **line, "events": [_written(event) for event in batch.events]}


def _written(event: Event) -> dict[str, Any]:
    if isinstance(event, Unknown):
        return json.loads(json.dumps(finite(event.record), default=_plain, skipkeys=True))
    if isinstance(event, Cleared):
        return {"type": CLEARED}
    record: dict[str, Any] = {"block_hashes": list(event.blocks)}
    if isinstance(event, Stored):
        record |= {"parent_block_hash": event.parent, "block_size": event.block_tokens}
        record |= {"session_id": event.session} if event.session else {}
    record |= {"medium": event.medium} if event.medium != GPU else {}
    record |= {"group_idx": event.group} if event.group else {}
    return {"type": STORED if isinstance(event, Stored) else REMOVED, **record}


def _plain(value: Any) -> str:
    """What JSON does not have, as text."""
    return value.hex() if isinstance(value, bytes) else str(value)

"""Rows as they are finished:

JSON Lines that only grow, so that an interrupted sweep goes on where it stopped. Each line carries a
checksum and is read back only if it is, byte for byte, what was written: a number altered by hand, a key
given twice or a NaN is no finished row.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from io import BufferedRandom
from pathlib import Path
from types import TracebackType

from kv_cache_rl.core.errors import Refused
from kv_cache_rl.files import holds, regular, write_whole

JOURNAL = "rows.jsonl"
PLAN = "plan"
"""The key of the row that says what the others are of."""


class JournalError(Refused):
    """A journal that cannot be read: says which line, and what to do."""


class Journal:
    """Finished rows by key.

    Each row is one line, on disk when `add` returns. A half-written last line is dropped, and so are rows
    without a checksum, which older versions wrote: what they stand for is played anew.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / JOURNAL
        self.rows: dict[str, dict] = {}
        self._file: BufferedRandom = open(regular(self.path), "a+b")
        self._lock()
        self._file.seek(0)
        try:
            whole = self._read(self._file.read())
        except JournalError:
            self._file.close()
            raise
        if whole < self._file.tell():
            self._file.truncate(whole)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _lock(self) -> None:
        """Raises JournalError if another process writes here."""
        if not holds(self._file.fileno()):
            self._file.close()
            raise JournalError(
                f"{self.path.parent}: another command writes there now; wait for it, or give another folder"
            )

    def _read(self, data: bytes) -> int:
        """Takes up the rows in `data`; returns how many bytes of it are whole lines."""
        whole = data.rfind(b"\n") + 1
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                record = json.loads(line)
                key, row = record["key"], record["row"]
                if set(record) != {"key", "row"}:
                    if not isinstance(row, dict) or _line(key, row) != line + b"\n":
                        raise ValueError("the line is not what was written")
                    self.rows[key] = row
            except (ValueError, KeyError, TypeError, RecursionError):
                raise JournalError(
                    f"{self.path}, line {number}: is no finished row, or was changed; delete that line, and "
                    "what it stood for is played anew, or give another folder"
                ) from None
        return whole

    def add(self, key: str, row: dict) -> None:
        """Keeps a finished row, once however often it is given.

        Raises ValueError for NaN or infinity in it, which no other reader of JSON takes.
        """
        if self.rows.get(key) != row:
            self._file.write(_line(key, row))
            self._file.flush()
            self.rows[key] = row

    def check_plan(self, plan: Mapping, of: str) -> None:
        """Notes what the rows are of, or compares it with what was noted.

        Args:
            plan: all that they depend on, by name.
            of: what they are, such as "a training".

        Raises:
            JournalError: they are of another plan.
        """
        theirs = self.rows.get(PLAN)
        if theirs is None:
            self.add(PLAN, dict(plan))
            return
        for name, ours in plan.items():
            if theirs.get(name) != ours:
                raise JournalError(
                    f"{self.path} is of {of} with another {name} ({theirs.get(name)!r}, now {ours!r}); give "
                    "the same, delete the file to begin anew, or give another --out"
                )

    def settle(self) -> None:
        """Returns when all rows would survive a power cut."""
        os.fsync(self._file.fileno())

    def order(self, keys: Iterable[str]) -> None:
        """Writes the journal anew, rows of these keys first and in this order, those of other sweeps behind
        them.
        """
        ordered = {key: self.rows[key] for key in keys if key in self.rows} | self.rows
        write_whole(self.path, b"".join(_line(key, row) for key, row in ordered.items()))
        self._file.close()
        self._file = open(self.path, "a+b")


def _line(key: str, row: Mapping) -> bytes:
    """A row as it is written: its key, its checksum, and itself."""
    text = json.dumps(row, allow_nan=False)
    check = hashlib.sha256(f"{key} {text}".encode()).hexdigest()[:16]
    return f'{{"key": {json.dumps(key)}, "check": "{check}", "row": {text}}}\n'.encode()

"""Page accesses by the hundred million: 4 bytes of memory each, read and written piece by piece.

A `Trace` has ten columns, for requests that are paths of blocks with times and sequences. Hits of plain pages
need the pages' numbers alone.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kv_cache_rl.files import part_of
from kv_cache_rl.jit import njit
from kv_cache_rl.sim.compiled import mixed
from kv_cache_rl.sim.hierarchy.spec import HierarchyError
from kv_cache_rl.sim.hierarchy.traces.load import load_trace
from kv_cache_rl.sim.hierarchy.traces.segments import SMALL, free_bytes
from kv_cache_rl.sim.hierarchy.traces.trace import Trace
from kv_cache_rl.traces.errors import Place, place_of
from kv_cache_rl.traces.formats import detect
from kv_cache_rl.traces.libcachesim import NO_BYTES, oracle_pieces
from kv_cache_rl.traces.reading import located
from kv_cache_rl.traces.requests import SORT

RECORD = np.dtype([("time", "<u4"), ("object", "<u8"), ("bytes", "<u4"), ("next", "<i8")])
"""libcachesim.ACCESS."""
SMALLEST_TABLE = 2**14
BINARY = ".oracleGeneral"
"""How names of such files end."""
PART = 2**16
"""Accesses that are written at a time."""
PER_SECOND = 1_000
"""Accesses in a second of a file that is written here."""


@dataclass(frozen=True, slots=True)
class Accesses:
    """R accesses to the pages 0 ... blocks - 1; names are those of `Trace`."""

    name: str
    ids: np.ndarray  # int32 [R]
    blocks: int
    page_bytes: np.ndarray | int  # int64 [blocks], or one number for all; 0: count pages instead
    left_out: str = ""

    chained, writes, warm_up = False, None, 0

    @property
    def requests(self) -> int:
        """R."""
        return len(self.ids)

    accesses = requests


def accesses_of(trace: Trace) -> Accesses:
    """The accesses of a page trace.

    Raises:
        HierarchyError: the trace has requests that are paths of blocks.
    """
    if trace.chained:
        raise HierarchyError(
            f"{trace.name!r} has requests over prefix trees, whose hits depend on the order within one; "
            "leave out --hits-only"
        )
    ids = trace.run_start.astype(np.int32)
    return Accesses(trace.name, ids, trace.blocks, trace.page_bytes, trace.left_out)


def load_accesses(path: str | Path, **options) -> Accesses:
    """The accesses in a file of any format, as `load_trace` reads them; libCacheSim's binary files piece by
    piece, others as whole traces.

    Raises TraceError for a file that cannot be used, HierarchyError for one of requests.
    """
    file, reading = located(path)
    if (reading.format or options.get("format") or detect(path)) != "oracle-general":
        return accesses_of(load_trace(path, **options))
    _check_room(file, reading.limit)
    ids, table, empty, last, records = array("i"), Table.of(SMALLEST_TABLE), 0, 0, 0
    for data in oracle_pieces(file):
        part = np.frombuffer(data, RECORD)[: None if reading.limit is None else reading.limit - records]
        if not len(part):
            break
        _in_order(file, records, last, part["time"])
        records, last = records + len(part), int(part["time"][-1])
        filled = part[part["bytes"] > 0]
        empty += len(part) - len(filled)
        table = table.with_room(len(filled))
        numbers = np.empty(len(filled), np.int32)
        objects, sizes = np.ascontiguousarray(filled["object"]), filled["bytes"].astype(np.int64)
        table.count[0] = _number(objects, sizes, *table, numbers)
        ids.frombytes(numbers.tobytes())
    count = int(table.count[0])
    left_out = f"{empty:,} {NO_BYTES}" if empty else ""
    sizes = table.bytes[:count].copy()
    return Accesses(Path(file).name, np.frombuffer(ids, np.int32), count, sizes, left_out)


def _check_room(file: str, limit: int | None) -> None:
    """Raises TraceError where memory does not hold the accesses of a binary file; of a packed one, those that
    its bytes would be.
    """
    records = Path(file).stat().st_size // RECORD.itemsize
    records = records if limit is None else min(records, limit)
    need = np.dtype(np.int32).itemsize * records
    if need > SMALL and need > (free := free_bytes()):
        raise place_of(file).error(
            f"its {records:,} accesses take {need / 1e9:,.1f} GB, of which {free / 1e9:,.1f} GB are free",
            f"read the first ones (--limit {int(free / 8):,})",
        )


def _in_order(path: str, before: int, last: int, times: np.ndarray) -> None:
    back = np.flatnonzero(np.diff(times.astype(np.int64), prepend=last) < 0)
    if len(back):
        at = int(back[0])
        earlier = int(times[at - 1]) if at else last
        raise Place(path, before + at + 1).error(f"{times[at]:g} s is before {earlier:g} s", SORT, "time")


class Table(NamedTuple):
    """Objects and their dense numbers, by open addressing; at most half of the cells are taken."""

    objects: np.ndarray  # uint64 [cells]
    numbers: np.ndarray  # int32 [cells], -1: free
    bytes: np.ndarray  # int64 [cells / 2], bytes by number, those that an object had first
    count: np.ndarray  # int64 [1], objects

    @classmethod
    def of(cls, cells: int) -> Table:
        """A table without objects."""
        columns = np.zeros(cells, np.uint64), np.full(cells, -1, np.int32), np.zeros(cells // 2, np.int64)
        return cls(*columns, np.zeros(1, np.int64))

    def with_room(self, more: int) -> Table:
        """This table, or a larger one with what is in it, for so many objects more."""
        count = int(self.count[0])
        if count + more <= len(self.bytes):
            return self
        larger = Table.of(1 << (2 * (count + more)).bit_length())
        taken = np.flatnonzero(self.numbers >= 0)
        known = np.empty(count, np.uint64)
        known[self.numbers[taken]] = self.objects[taken]
        larger.count[0] = _number(known, self.bytes[:count], *larger, np.empty(count, np.int32))
        return larger


@njit
def _number(objects, sizes, known, number_of, bytes_of, count, numbers):
    """Numbers objects in the order in which they are first seen; returns how many there are."""
    last, seen = np.uint64(len(known) - 1), count[0]
    for i in range(len(objects)):
        cell = mixed(objects[i]) & last
        while number_of[cell] >= 0 and known[cell] != objects[i]:
            cell = (cell + np.uint64(1)) & last
        if number_of[cell] < 0:
            known[cell], number_of[cell], bytes_of[seen] = objects[i], seen, sizes[i]
            seen += 1
        numbers[i] = number_of[cell]
    return seen


def save_accesses(found: Accesses, path: str | Path) -> None:
    """Writes accesses to libCacheSim's binary format, in a file that appears whole or not at all.

    Pages without bytes are written with one each: those of none are no accesses there.
    """
    sizes = np.maximum(np.asarray(found.page_bytes), 1)
    with part_of(Path(path)) as part, part.open("wb") as file:
        for at in range(0, found.requests, PART):
            ids = found.ids[at : at + PART]
            records = np.zeros(len(ids), RECORD)
            records["time"] = np.arange(at, at + len(ids)) // PER_SECOND
            records["object"], records["next"] = ids, -1
            records["bytes"] = sizes[ids] if sizes.ndim else sizes
            file.write(records.tobytes())

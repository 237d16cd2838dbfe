"""Page accesses as libCacheSim has them: its tables (`time, obj_id, obj_size`) and its binary
oracleGeneral.

Objects have any size and no parents, so these are page traces: the hierarchy lab replays them, and
nothing else can use them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kv_cache_rl.traces.errors import Place, place_of
from kv_cache_rl.traces.files import TORN, torn, unpacked
from kv_cache_rl.traces.lines import read_lines
from kv_cache_rl.traces.reading import located
from kv_cache_rl.traces.requests import SORT, in_order
from kv_cache_rl.traces.tables import rows

COLUMNS = ("time", "obj_id", "obj_size")
ACCESS = struct.Struct("<IQIq")
"""Time, object, bytes, when it is accessed next (-1: never).

Source: libCacheSim, oracleGeneralBin.h.
"""
NO_BYTES = "accesses of no bytes"
"""What the lab leaves out, as libCacheSim does."""
SAMPLE = 64
"""Records that decide whether binary data are oracleGeneral's."""


@dataclass(frozen=True, slots=True)
class Access:
    """One access of an object."""

    place: Place  # of a table the line, of a binary file the record
    time_s: float
    object: int | str
    bytes: int


def read_libcachesim(path: str | Path) -> Iterator[Access]:
    """The accesses of a table, in order of time. Raises TraceError at the first bad row."""
    name, reading = located(path)
    found = (
        Access(row.place, row.seconds_in("time", reading), row.cell("obj_id", ""), row.whole("obj_size"))
        for row in rows(read_lines(name), COLUMNS)
    )
    return in_order(found, _time, _back, reading)


def read_oracle_general(path: str | Path) -> Iterator[Access]:
    """The accesses of a binary file, in order of time. Raises TraceError where it ends inside a record."""
    name, reading = located(path)
    found = (
        Access(Place(name, number), reading.seconds(float(time), "s"), thing, size)
        for number, (time, thing, size, _) in enumerate(_records(name), 1)
    )
    return in_order(found, _time, _back, reading)


def _time(access: Access) -> float:
    return access.time_s


def _back(access: Access, last: float) -> Exception:
    return access.place.error(f"{access.time_s:g} s is before {last:g} s", SORT, "time")


def _records(path: str) -> Iterator[tuple[int, int, int, int]]:
    for data in oracle_pieces(path):
        yield from ACCESS.iter_unpack(data)


def oracle_pieces(path: str) -> Iterator[bytes]:
    """The bytes of a binary file, whole records at a time.

    Raises TraceError where it ends inside a record, or has none.
    """
    whole = place_of(path)
    number = 0
    with unpacked(path) as content:
        while True:
            try:
                data = content.read(ACCESS.size * 4096)
            except TORN as error:
                raise torn(whole, error) from None
            if len(data) % ACCESS.size:
                raise whole.error(
                    f"it ends inside record {number + len(data) // ACCESS.size + 1:,}", "download it again"
                )
            if not data:
                break
            yield data
            number += len(data) // ACCESS.size
    if not number:
        raise whole.error("the file is empty", "give a trace with at least one access")


def looks_like_oracle(head: bytes) -> bool:
    """Whether binary data begin as oracleGeneral's: times that never fall, and later accesses that come
    later. Any size may be one.
    """
    whole = head[: len(head) // ACCESS.size * ACCESS.size][: ACCESS.size * SAMPLE]
    records = list(ACCESS.iter_unpack(whole))
    times = [record[0] for record in records]
    return (
        bool(records)
        and times == sorted(times)
        and all(later == -1 or at < later < 2**48 for at, (_, _, _, later) in enumerate(records))
    )

"""How a trace file is to be read: its format, its block size, its unit of time, and how much of it.

The options can also stand behind the name of a file, `FILE#block_size=16,limit=1000`, which is how
they travel through settings that hold a file's name and nothing else."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from kv_cache_rl.traces.errors import place_of
from kv_cache_rl.traces.fields import LARGEST

UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
"""Unit of time → how many make a second."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What is said about a trace file from outside; None: as the file, or else its format, says."""

    format: str | None = None
    block_size: int | None = None
    """Tokens in a block."""
    time_unit: str | None = None
    """Of its times, a key of UNITS."""
    limit: int | None = None
    """Read the first so many requests (sessions, conversations or page accesses, where a file holds
    those).
    """
    sort: bool = False
    """Put rows whose times run back in order, instead of refusing them."""

    def seconds(self, value: float, unit: str) -> float:
        """A time of the file in seconds; `unit` is the format's own."""
        return value / UNITS[self.time_unit or unit]

    def named(self, path: str | Path) -> str:
        """The file's name with these options behind it."""
        given = [
            f"{field.name}={getattr(self, field.name)}"
            for field in fields(self)
            if getattr(self, field.name) != field.default
        ]
        return f"{path}#{','.join(given)}" if given else str(path)


PLAIN = Reading()


def located(path: str | Path, reading: Reading | None = None) -> tuple[str, Reading]:
    """The file's own name, and how to read it: as given, else as its name says.

    Raises:
        TraceError: an option that is out of range, given or in the name.
    """
    name, sign, tail = str(path).rpartition("#")
    pairs = [pair.partition("=") for pair in tail.split(",")]
    known = [field.name for field in fields(Reading)]
    plain = not sign or any(key not in known for key, _, _ in pairs)
    if plain or os.path.exists(path):  # a name may hold any sign
        return str(path), checked(reading or PLAIN, str(path))
    kinds: dict[str, Any] = {"block_size": int, "limit": int, "sort": lambda text: text == "True"}
    try:
        options = {key: kinds.get(key, str)(value) for key, _, value in pairs}
    except ValueError:
        raise place_of(name).error(
            f"the options {tail!r} behind its name cannot be read",
            "write FILE#block_size=16,time_unit=s,limit=1000, each part where it is needed",
        ) from None
    return name, checked(reading or Reading(**options), name)


def checked(reading: Reading, path: str) -> Reading:
    """The options themselves. Raises TraceError for one that is out of range."""
    place = place_of(path)
    if reading.block_size is not None and not 1 <= reading.block_size <= 2**20:
        raise place.error(
            f"a block size of {reading.block_size} tokens", "give 1 to 1,048,576 (--block-size)"
        )
    if reading.time_unit is not None and reading.time_unit not in UNITS:
        raise place.error(
            f"unknown unit of time {reading.time_unit!r}",
            f"use one of {', '.join(UNITS)} (--time-unit)",
        )
    if reading.limit is not None and not 1 <= reading.limit <= LARGEST:
        raise place.error(
            f"a limit of {reading.limit} requests", "give a number from 1 on, of at most 19 digits (--limit)"
        )
    return reading

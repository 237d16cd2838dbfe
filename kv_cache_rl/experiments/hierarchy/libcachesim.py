"""libCacheSim beside the lab: the same accesses in the same room, misses first, then seconds by turns.

libCacheSim is under the GPL. It is a yardstick that is installed by hand and runs in a process of its own: no
part of the project needs it. Its misses are kept in libcachesim.json for machines without it, written by
``python -m kv_cache_rl.experiments.hierarchy.libcachesim FILE`` on one with it.

Source: https://github.com/1a1a11a/libCacheSim, whose parameters are the default ones but for the hash table,
which is as small as these pages allow: its default is slower.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from time import process_time

import numpy as np

from kv_cache_rl.core.errors import Refused
from kv_cache_rl.sim.hierarchy.flat import hits_of
from kv_cache_rl.sim.hierarchy.generate import zipf
from kv_cache_rl.sim.hierarchy.traces.accesses import BINARY, Accesses, save_accesses

PACKAGE, RECORDED = "libcachesim", "0.3.5"
INSTALL = f"pip install {PACKAGE}=={RECORDED}"
FILE = Path(__file__).with_suffix(".json")
PAGES, ACCESSES, SKEW = 100_000, 1_000_000, 1.0
CAPACITIES = (1_000, 10_000, 30_000)
"""Pages that fit; those of different sizes: bytes of so many mean pages."""
TIMED = CAPACITIES[1]
TIMES = 5
SMALLEST, LARGEST = 1_000, 65_536
"""Bytes of pages of different sizes."""

SLRU_DIFFERS = (
    "four segments of a quarter each, a use moves a page up by one, and a page enters the lowest with room; "
    "here two segments, the protected one 80 %"
)
S3FIFO_DIFFERS = (
    "evicts from the small queue unless the main one exceeds 90 %, fills the main queue first while there is "
    "room, and remembers ghosts of 90 % of the tier; here as in the paper, with ghosts of 100 %"
)
TINYLFU_DIFFERS = (
    "counts hits of the main part and candidates in a Bloom filter, and forgets after 32 counts a page; here "
    "every access counts, in a sketch that forgets after 10"
)
GDSF_DIFFERS = "pages of the same priority, and its rounding"
SIZE_DIFFERS = "pages of the same size: here the one that entered first leaves first"


class PeerError(Refused):
    """The peer did not answer as its version should: says what it said, and what to do."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A policy of the lab and what libCacheSim calls it."""

    policy: str
    theirs: str
    sized: bool = False
    """Whether pages differ in size."""
    differs: str = ""
    """What libCacheSim does otherwise; "": nothing, and the misses are equal."""


PAIRS = (
    Pair("lru", "LRU"),
    Pair("fifo", "FIFO"),
    Pair("sieve", "Sieve"),
    Pair("lfu", "LFU"),
    Pair("arc", "ARC"),
    Pair("s3fifo", "S3FIFO", False, S3FIFO_DIFFERS),
    Pair("slru", "SLRU", False, SLRU_DIFFERS),
    Pair("tinylfu", "WTinyLFU", False, TINYLFU_DIFFERS),
    Pair("lru", "LRU", True),
    Pair("lfu", "LFU", True),
    Pair("gdsf", "GDSF", True, GDSF_DIFFERS),
    Pair("largest_first", "Size", True, SIZE_DIFFERS),
)


@dataclass(frozen=True, slots=True)
class Beside:
    """A pair on the same accesses in the same room."""

    pair: Pair
    capacity: int
    """Pages, or bytes where these differ in size."""
    misses: int
    theirs: int
    """Misses of libCacheSim, counted now or recorded."""
    seconds: float
    """CPU seconds, the median of TIMES."""
    their_seconds: float | None
    """None where libCacheSim is not installed."""


@cache
def accesses(sized: bool) -> tuple[np.ndarray, np.ndarray | int]:
    """Page ids, int32 [ACCESSES], and the bytes of the pages; 0 where they are counted alike."""
    ids = zipf(PAGES, ACCESSES, SKEW).run_start.astype(np.int32)
    sizes = np.random.default_rng(0).integers(SMALLEST, LARGEST, PAGES)
    return (ids, sizes) if sized else (ids, 0)


def room(sized: bool, capacity: int) -> int:
    """A capacity in pages as the tier of these pages has it."""
    _, sizes = accesses(sized)
    return capacity * int(sizes.mean()) if isinstance(sizes, np.ndarray) else capacity


def misses_of(pair: Pair, capacity: int) -> int:
    """Misses of the lab's policy."""
    ids, sizes = accesses(pair.sized)
    return ACCESSES - hits_of(pair.policy, [ids], PAGES, room(pair.sized, capacity), sizes)


def recorded(pair: Pair, capacity: int) -> int:
    """Misses of libCacheSim as they were once counted."""
    rows = json.loads(FILE.read_text(encoding="utf-8"))["misses"]
    return next(
        row["misses"]
        for row in rows
        if (row["policy"], row["sized"], row["capacity"])
        == (pair.policy, pair.sized, room(pair.sized, capacity))
    )


def installed() -> str | None:
    """The version of libCacheSim that is installed here."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return None


def side_by_side(progress: Callable[[int, int], None] = lambda done, total: None) -> list[Beside]:
    """All pairs at TIMED pages.

    Raises:
        PeerError: libCacheSim is installed and does not answer.
    """
    ours: dict[Pair, list[float]] = {pair: [] for pair in PAIRS}
    peers: dict[Pair, list[float]] = {pair: [] for pair in PAIRS}
    counts: dict[Pair, tuple[int, int]] = {}
    for pair in PAIRS:
        misses_of(pair, TIMED)  # compiles
    with asked() as ask:
        for turn in range(TIMES):
            for done, pair in enumerate(PAIRS, 1 + turn * len(PAIRS)):
                began = process_time()
                misses = misses_of(pair, TIMED)
                ours[pair].append(process_time() - began)
                theirs = recorded(pair, TIMED)
                if ask is not None:
                    theirs, seconds = ask(pair, TIMED)
                    peers[pair].append(seconds)
                counts[pair] = misses, theirs
                progress(done, TIMES * len(PAIRS))
    return [
        Beside(
            pair,
            room(pair.sized, TIMED),
            *counts[pair],
            median(ours[pair]),
            median(peers[pair]) if peers[pair] else None,
        )
        for pair in PAIRS
    ]


Ask = Callable[[Pair, int], tuple[int, float]]
"""(pair, capacity in pages) → misses of libCacheSim, its CPU seconds."""

PEER = """
import json, sys, time
import libcachesim
name, capacity, power, trace = sys.argv[1:]
reader = libcachesim.TraceReader(trace, libcachesim.TraceType.ORACLE_GENERAL_TRACE)
cache = getattr(libcachesim, name)(int(capacity), hashpower=int(power))
began = time.process_time()
missed = cache.process_trace(reader)[0]
print(json.dumps([missed, time.process_time() - began]))
"""
POWER = PAGES.bit_length() + 1
"""Binary logarithm of the cells of its hash table: two to five for a page."""


@contextmanager
def asked() -> Iterator[Ask | None]:
    """A function that asks libCacheSim, a process each time; None where it is not installed."""
    if installed() is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        files = {sized: Path(folder) / f"{sized}{BINARY}" for sized in (False, True)}
        for sized, path in files.items():
            ids, sizes = accesses(sized)
            save_accesses(Accesses(path.name, ids, PAGES, sizes), path)

        def ask(pair: Pair, capacity: int) -> tuple[int, float]:
            words = [pair.theirs, str(room(pair.sized, capacity)), str(POWER), str(files[pair.sized])]
            done = subprocess.run(
                [sys.executable, "-c", PEER, *words], capture_output=True, text=True, check=False
            )
            try:
                missed, seconds = json.loads(done.stdout.splitlines()[-1])
            except (IndexError, ValueError):
                said = done.stderr.strip().splitlines() or ["it said nothing"]
                raise PeerError(
                    f"libCacheSim {installed()} did not replay {pair.theirs}: {said[-1]}; "
                    f"{INSTALL}, or pip uninstall {PACKAGE} to do without"
                ) from None
            return round(missed * ACCESSES), seconds

        yield ask


def record(path: Path) -> None:
    """Writes what libCacheSim counts into the file of its misses."""
    with asked() as ask:
        if ask is None:
            raise PeerError(f"libCacheSim is not installed; {INSTALL}")
        rows = [
            {
                "policy": pair.policy,
                "theirs": pair.theirs,
                "sized": pair.sized,
                "capacity": room(pair.sized, capacity),
                "misses": ask(pair, capacity)[0],
            }
            for pair in PAIRS
            for capacity in CAPACITIES
        ]
    head = {
        "command": f"{INSTALL} && python -m {__spec__.name} FILE" if __spec__ else "",
        "version": installed(),
        "trace": {"pages": PAGES, "accesses": ACCESSES, "skew": SKEW, "seed": 0},
    }
    lines = ",\n".join(json.dumps(row) for row in rows)
    path.write_text(json.dumps(head)[:-1] + f', "misses": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    record(Path(sys.argv[1]) if len(sys.argv) > 1 else FILE)

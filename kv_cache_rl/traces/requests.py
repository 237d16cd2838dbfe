"""What a trace of single requests holds, whatever its format: arrivals, lengths, block ids,
sessions.

Every format of this kind turns its own records into these rows, and every command reads these rows.
A field that the file does not give is None; `lengths` and `Requests.blocks` say what a command
needs and does not find."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter
from typing import TypeVar

from kv_cache_rl.traces.blocks import Names
from kv_cache_rl.traces.errors import Place
from kv_cache_rl.traces.reading import Reading

DOCS = "docs/formats.md lists what each command needs"

FAILED = "calls that failed (they got no answer)"
"""Why a request is left out: BurstGPT records calls without an answer as 0 response tokens."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request."""

    place: Place
    time_s: float | None
    """Seconds on the trace's clock."""
    input_tokens: int
    output_tokens: int | None
    ids: Sequence[int] | None = None
    """Ids of the blocks of the input; chained: equal ids mean equal prefixes."""
    session: str = ""
    """Names the session or chat that it belongs to; "": not known."""
    held: int | None = None
    """Leading tokens of the input that its session held already; None: the file does not say."""


NO_LENGTH = {
    "lab": ("output_tokens", "add output_tokens to every line"),
    "kv-events": ("", "join the events with the engine's request log: kv-cache-rl engine attach --requests"),
    "": ("output_length", "add output_length to every line"),
}
"""Format -> the field of an answer's length, and what to do without one; "": any other."""


@dataclass(slots=True)
class Requests:
    """The requests of one trace file, read as they are asked for."""

    path: str
    format: str
    block_tokens: int
    """Tokens in a block; 0 where the format names no blocks."""
    arrivals: Iterator[Arrival]
    """In order of time, where times are known."""
    names: Names = field(default_factory=Names)
    """What the numbers of its block ids stand for."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Reason → requests that are in the file and not among the arrivals; whole once all are read."""
    notes: list[str] = field(default_factory=list)
    """What was assumed or done, in sentences; whole once all are read."""
    emptied: int = 0
    """How often the cache of a recording was emptied, which no replay of its requests does."""

    def timed(self) -> Iterator[Arrival]:
        """The arrivals, each with a time and lengths. Raises TraceError at the first without."""
        for one in self.arrivals:
            if one.time_s is None:
                raise one.place.error(
                    f"a trace in {self.format} format names no arrival times here",
                    f"give a trace with arrival times, or --rate where a command has it; {DOCS}",
                )
            yield self.answered(one)

    def answered(self, one: Arrival) -> Arrival:
        """The arrival itself, which must have an output length."""
        if one.output_tokens is None:
            field, remedy = NO_LENGTH.get(self.format, NO_LENGTH[""])
            raise one.place.error("the request has no output length", f"{remedy}; {DOCS}", field)
        return one

    def blocks(self, command: str) -> Iterator[Arrival]:
        """The arrivals, each with block ids.

        Raises TraceError at the first without; `command` needs them.
        """
        for one in self.arrivals:
            if one.ids is None:
                raise one.place.error(
                    f"the request names no blocks, which {command} needs",
                    "give a trace with block ids (hash_ids); stability plan and serving simulate do without",
                )
            if one.time_s is None:
                raise one.place.error(
                    "the request has no arrival time", "add timestamp to every line", "timestamp"
                )
            yield one


Record = TypeVar("Record")


def in_order(
    records: Iterable[Record],
    time: Callable[[Record], float],
    problem: Callable[[Record, float], Exception],
    reading: Reading,
) -> Iterator[Record]:
    """The records, whose times must not run back; put in order where the reading asks for it.

    Raises:
        problem(record, time before): for the first record that is earlier than the one before it.
    """
    if reading.sort:
        yield from sorted(limited(records, reading), key=time)
        return
    last = 0.0
    for record in limited(records, reading):
        last = forward(record, time(record), last, problem, reading)
        yield record


def forward(
    record: Record, now: float, last: float, problem: Callable[[Record, float], Exception], reading: Reading
) -> float:
    """The time itself.

    Raises:
        problem(record, last): it is before the last one, and the reading does not ask for sorting.
    """
    if now < last and not reading.sort:
        raise problem(record, last)
    return now


SORT = "run kv-cache-rl traces convert, which sorts them"
"""The way out where rows are not in order of time; two files glued together should not be sorted
unseen.
"""


def limited(records: Iterable[Record], reading: Reading) -> Iterator[Record]:
    """The first records, as many as the reading wants."""
    return islice(iter(records), reading.limit)


by_time = attrgetter("time_s")
